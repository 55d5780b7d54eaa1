"""Versions of the project's three models in MLflow's registry, and the aliases candidate, champion and previous-champion."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlparse
from urllib.request import url2pathname

from components.models.weights import DamagedFolderError, digest_folder, verify_folder
from components.registry.code import ENTRY, PACKAGE, copy_code
from components.registry.gates import Verdict
from components.registry.identity import as_promoter, is_refusal, refusal
from components.registry.tracking import LONGEST_VALUE, client_of, experiment_of, tracking_uri
from components.store.project import Project

Kind = Literal["captioner", "video-vae", "text-to-video"]
CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous-champion"
WEIGHTS_TAG, VERDICT_TAG, REASONS_TAG = "kinora.weights", "kinora.verdict", "kinora.reasons"
GENERATE_TAG = "kinora.generate"  # the settings of sampling that a version was evaluated with, as JSON
WEIGHTS_PLACE = "artifacts/weights"
LATEST, LOGGED_MODEL = "latest", re.compile(r"m-\w+")  # of the addresses that MLflow knows
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "safetensors",
    "av",
    "open-clip-torch",
    "opencv-python",
    "pydantic",
    "pyyaml",
    "mlflow",
)

_address_lock = threading.Lock()


class ModelNotFoundError(ValueError):
    """No such model, version or alias; the message says what there is."""


class RegistryUnavailableError(RuntimeError):
    """The registry does not answer; the message says where it should be."""


class RegistryRefusedError(RegistryUnavailableError):
    """The registry does not let this identity do what is asked; the message says who may."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model; `weights` is the digest of its folder."""

    name: str
    kind: str
    number: int
    weights: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created_seconds: float
    run_id: str | None

    @property
    def generate(self) -> dict[str, Any]:
        """The settings of sampling that it was evaluated with; none where that was not written down."""
        found: dict[str, Any] = json.loads(self.tags.get(GENERATE_TAG, "{}"))
        return found


def registered_name(project: Project, kind: str) -> str:
    """Answers `<project>-<kind>`."""
    if kind not in get_args(Kind):
        raise ModelNotFoundError(f"`{kind}` is not a kind of model; the kinds are {', '.join(get_args(Kind))}")
    return f"{project.name}-{kind}"


def register(
    project: Project, kind: Kind, folder: Path, metrics: Mapping[str, float], tags: Mapping[str, Any], run_id: str | None = None
) -> Version:
    """Makes a version of a folder of weights and points `candidate` at it; the same weights are one version, however often.

    Args:
        folder: what training exported, with its manifest.
        metrics: figures of its evaluation, kept with the model and as tags `metric.<name>`.
        tags: lineage, see `lineage_tags`.
        run_id: of the training in MLflow, if it is known there.
    """
    verify_folder(folder)
    weights = digest_folder(folder)
    name = registered_name(project, kind)
    text = {WEIGHTS_TAG: weights, "kinora.kind": kind, **{f"metric.{key}": f"{value:.6g}" for key, value in metrics.items()}, **tags}
    text = {key: str(value)[:LONGEST_VALUE] for key, value in text.items()}
    with reached(project, writes=True) as client:
        _ensure_registered(client, name, project)
        found = _by_weights(client, name, kind, weights)
        if found is None:
            with _address(tracking_uri(project)):
                model_id = _log_model(client, project, kind, folder, text, run_id)
                number = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags=text, model_id=model_id).version
        else:
            number = found.number
            for key, value in text.items():
                client.set_model_version_tag(name, str(number), key, value)
        champion = _by_alias(client, name, kind, CHAMPION)
        if champion is None or champion.number != int(number):
            client.set_registered_model_alias(name, CANDIDATE, str(number))
        return _version(client.get_model_version(name, str(number)), kind)


def write_generate(project: Project, version: Version, generate: Mapping[str, Any]) -> None:
    """Writes down the settings of sampling that a version was evaluated with."""
    with reached(project, writes=True) as client:
        for name, said in generate_tag(generate).items():
            client.set_model_version_tag(version.name, str(version.number), name, said)


def generate_tag(generate: Mapping[str, Any]) -> dict[str, str]:
    """Answers the settings of sampling as a tag of a version.

    Raises:
        ValueError: they are too long for one.
    """
    said = json.dumps(dict(generate), sort_keys=True)
    if len(said) > LONGEST_VALUE:
        raise ValueError(
            f"the settings of sampling take {len(said)} characters, and a tag keeps {LONGEST_VALUE}; "
            "hint: a shorter `generate.negative_prompt`"
        )
    return {GENERATE_TAG: said}


def find(project: Project, kind: Kind, alias: str) -> Version | None:
    """Answers the version that an alias points at, or None."""
    with reached(project) as client:
        return _by_alias(client, registered_name(project, kind), kind, alias)


def of_weights(project: Project, kind: Kind, weights: str) -> Version | None:
    """Answers the version whose weights have this digest, or None."""
    with reached(project) as client:
        return _by_weights(client, registered_name(project, kind), kind, weights)


def list_versions(project: Project, kind: Kind) -> list[Version]:
    """Answers all versions, newest first."""
    with reached(project) as client:
        return _versions(client, registered_name(project, kind), kind)


def download(project: Project, version: Version) -> Path:
    """Answers a local folder with the version's weights, checked against their manifest; files on this machine are not copied."""
    with reached(project) as client:
        uri = client.get_model_version_download_uri(version.name, str(version.number))
        address = urlparse(uri)
        if address.scheme in ("", "file"):
            folder = Path(url2pathname(address.path)) / WEIGHTS_PLACE
        else:
            folder = project.folder / "models" / "downloaded" / version.weights[:16]
            if not folder.is_dir():
                _fetch(f"{uri}/{WEIGHTS_PLACE}", folder, tracking_uri(project))
    verify_folder(folder)
    if digest_folder(folder) != version.weights:
        raise DamagedFolderError(f"the files of `{version.name}` version {version.number} are not those that were registered")
    return folder


def promote(project: Project, kind: Kind, version: Version, verdict: Verdict, compared_with: Version | None) -> Version:
    """Writes the verdict down and, when it says promote, makes the version champion.

    The old champion is kept as `previous-champion` first, so a kill in between leaves two names for it and never none.

    Args:
        compared_with: the champion of the verdict, read before it; None when there was none.

    Raises:
        ValueError: another champion was chosen since; the version has to be compared with that one.
    """
    name, number = registered_name(project, kind), str(version.number)
    with reached(project, writes=True) as client, project.lock(f"promote-{kind}"):
        client.set_model_version_tag(name, number, VERDICT_TAG, verdict.outcome)
        client.set_model_version_tag(name, number, REASONS_TAG, "; ".join(verdict.reasons)[:LONGEST_VALUE])
        if verdict.outcome != "promote":
            return _version(client.get_model_version(name, number), kind)
        champion = _by_alias(client, name, kind, CHAMPION)
        if champion is None or champion.number != version.number:
            if (champion.number if champion else None) != (compared_with.number if compared_with else None):
                raise ValueError(
                    f"`{name}` has another champion since the evaluation (version {champion.number if champion else 'none'}); "
                    "hint: `kinora run promote` compares with that one"
                )
            if champion is not None:
                client.set_registered_model_alias(name, PREVIOUS, str(champion.number))
            client.set_registered_model_alias(name, CHAMPION, number)
        client.set_model_version_tag(name, number, "kinora.promoted_seconds", f"{time.time():.0f}")
        candidate = _by_alias(client, name, kind, CANDIDATE)
        if candidate is not None and candidate.number == version.number:
            client.delete_registered_model_alias(name, CANDIDATE)
        return _version(client.get_model_version(name, number), kind)


def rollback(project: Project, kind: Kind) -> Version:
    """Makes `previous-champion` champion again, and the champion the previous one.

    Raises:
        ModelNotFoundError: there is no earlier champion.
    """
    name = registered_name(project, kind)
    with reached(project, writes=True) as client, project.lock(f"promote-{kind}"):
        champion, previous = _by_alias(client, name, kind, CHAMPION), _by_alias(client, name, kind, PREVIOUS)
        if previous is None or (champion is not None and champion.number == previous.number):
            raise ModelNotFoundError(f"`{name}` has no earlier champion to go back to; hint: `kinora show models` lists the versions")
        client.set_registered_model_alias(name, CHAMPION, str(previous.number))
        if champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(champion.number))
        return _version(client.get_model_version(name, str(previous.number)), kind)


def resolve(project: Project, kind: Kind, reference: str) -> Path:
    """Answers the local folder that a person's `--model` means; see `resolve_version`."""
    return resolve_version(project, kind, reference)[0]


def resolve_version(project: Project, kind: Kind, reference: str) -> tuple[Path, Version | None]:
    """Answers the local folder that a person's `--model` means, and the version that it is where the registry knows it.

    Args:
        reference: an alias (`champion`), a version number, an address (`models:/NAME/3`, `models:/NAME/latest`, `models:/NAME@champion`,
            `models:/m-ID`), or a folder; one that is called as an alias or a number is named by a path (`./champion`).

    Raises:
        ModelNotFoundError: nothing of that name; says what there is.
    """
    of_registry = reference.startswith("models:/") or reference.isdecimal() or reference in (CANDIDATE, CHAMPION, PREVIOUS, LATEST)
    if not of_registry and (os.sep in reference or Path(reference).is_dir()):
        folder = Path(reference)
        if not folder.is_dir():
            raise ModelNotFoundError(f"`{reference}` is not a folder; hint: `--model champion`, or a folder of weights")
        verify_folder(folder)
        return folder, None
    try:
        version = lookup(project, kind, reference)
    except ModelNotFoundError as error:
        if not Path(reference).is_dir():
            raise
        raise ModelNotFoundError(
            f"`{reference}` is no version of `{registered_name(project, kind)}`; hint: `--model ./{reference}` is the folder of that name"
        ) from error
    return download(project, version), version


def lookup(project: Project, kind: Kind, reference: str) -> Version:
    """Answers the version that an alias, number or `models:/` address means."""
    name, wanted = registered_name(project, kind), reference
    if reference.startswith("models:/"):
        rest = reference.removeprefix("models:/")
        if LOGGED_MODEL.fullmatch(rest):
            return _of_logged_model(project, kind, rest)
        name, _, wanted = rest.partition("@") if "@" in rest else rest.rpartition("/")
        if not name or not wanted:
            raise ModelNotFoundError(
                f"`{reference}` names no version; hint: `models:/NAME/3`, `models:/NAME/latest` or `models:/NAME@champion`"
            )
    with reached(project) as client:
        versions = _versions(client, name, kind)
    if wanted == LATEST and versions:
        return versions[0]
    found = next((one for one in versions if (one.number == int(wanted) if wanted.isdigit() else wanted in one.aliases)), None)
    if found is not None:
        return found
    if not versions and name != registered_name(project, kind):
        raise ModelNotFoundError(f"there is no model `{name}`; hint: `kinora show models` lists those of this project")
    if not versions:
        raise ModelNotFoundError(f"there is no `{name}` yet; hint: `kinora run --project {project.name}` trains one")
    names = sorted({alias for version in versions for alias in version.aliases} | {str(version.number) for version in versions})
    raise ModelNotFoundError(f"`{name}` has no `{wanted}`; there are {', '.join(names)}")


@contextlib.contextmanager
def reached(project: Project, writes: bool = False) -> Iterator[Any]:
    """Lends the client, as the promoter where something is written; a registry that does not answer is one sentence."""
    from mlflow.exceptions import MlflowException

    try:
        with as_promoter() if writes else contextlib.nullcontext():
            yield client_of(project)
    except MlflowException as error:
        said = " ".join(str(error).split())[:200]
        if is_refusal(error.error_code, said):
            raise RegistryRefusedError(refusal(tracking_uri(project), writes)) from error
        hint = "hint: MLFLOW_TRACKING_URI says where it is, and `kinora doctor` asks it"
        raise RegistryUnavailableError(f"MLflow at `{tracking_uri(project)}` does not do what is asked ({said}); {hint}") from error


@contextlib.contextmanager
def _address(uri: str) -> Iterator[None]:
    """Makes an address the process's own for a moment: MLflow's SQLite store looks models up there and not at its own."""
    with _address_lock:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_TRACKING_URI"] = uri
        try:
            yield
        finally:
            if before is None:
                del os.environ["MLFLOW_TRACKING_URI"]


def _ensure_registered(client: Any, name: str, project: Project) -> None:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there already, the usual case
        client.create_registered_model(name, tags={"kinora.project": project.name})


def _log_model(client: Any, project: Project, kind: str, folder: Path, tags: Mapping[str, str], run_id: str | None) -> str:
    """Stores a pyfunc model made of code and our folder; answers its id."""
    import mlflow.pyfunc

    logged = client.create_logged_model(experiment_of(project, client), name=kind, source_run_id=run_id, tags=dict(tags), model_type=kind)
    try:
        with tempfile.TemporaryDirectory(prefix="kinora-") as place, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow would like an input example
            weights = Path(place) / "weights"
            shutil.copytree(folder, weights, copy_function=_link_or_copy)
            mlflow.pyfunc.save_model(
                str(Path(place) / "model"),
                python_model=str(PACKAGE / ENTRY),
                artifacts={"weights": str(weights)},
                model_config=_model_config(kind, tags),
                signature=_signature(kind),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _packages(folder)],
                code_paths=[str(copy_code(Path(place) / "code"))],
                metadata={"kinora": dict(tags)},
            )
            client.log_model_artifacts(logged.model_id, str(Path(place) / "model"))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _model_config(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Answers what may be set of a model when it is loaded: MLflow lets no other names through."""
    sampling = {"generate": json.loads(tags.get(GENERATE_TAG, "{}"))} if kind == "text-to-video" else {}
    return {"kind": kind, "device": None, **sampling}


def _packages(folder: Path) -> list[str]:
    """Answers what a model needs to run: diffusers or transformers too, where its VAE or text encoder is one of theirs."""
    made = [json.loads(path.read_text()) for path in folder.rglob("vae.json")]
    of_vae = ["diffusers"] if any("codec" in noted for noted in made) else []
    return [*PACKAGES, *of_vae, *(["transformers"] if any(folder.rglob("text_encoder.json")) else [])]


def _signature(kind: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    video, seed = ColSpec("binary", "video"), ParamSpec("seed", "long", 0)
    match kind:
        case "text-to-video":  # 0 steps or frames: as many as the model's own notes say
            files = [
                ColSpec("string", name, required=False) for name in ("image", "video", "second_video")
            ]  # base64: of a binary column MLflow takes no null
            numbers = [seed, ParamSpec("num_inference_steps", "long", 0), ParamSpec("num_frames", "long", 0)]
            ways = [ParamSpec("strength", "double", 0.0), ParamSpec("backward", "boolean", False), ParamSpec("loop", "boolean", False)]
            return ModelSignature(Schema([ColSpec("string", "prompt"), *files]), Schema([video]), ParamSchema([*numbers, *ways]))
        case "captioner":
            return ModelSignature(Schema([video]), Schema([ColSpec("string", "caption")]))
    return ModelSignature(Schema([video]), Schema([video]), ParamSchema([ParamSpec("fps", "long", 8)]))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fetch(uri: str, folder: Path, tracking: str) -> None:
    import mlflow.artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as place:
        found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=place, tracking_uri=tracking)
        verify_folder(Path(found))
        with contextlib.suppress(OSError):  # another process fetched it in between
            os.replace(found, folder)


def _by_weights(client: Any, name: str, kind: str, weights: str) -> Version | None:
    return next((version for version in _versions(client, name, kind) if version.weights == weights), None)


def _of_logged_model(project: Project, kind: str, model_id: str) -> Version:
    """Answers the version that was made of a model as MLflow logged it."""
    with reached(project) as client:
        for entry in client.search_model_versions(f"source_path='models:/{model_id}'"):
            return _version(entry, kind)
    raise ModelNotFoundError(f"no version is of the logged model `{model_id}`; hint: `kinora show models` lists the versions")


def _by_alias(client: Any, name: str, kind: str, alias: str) -> Version | None:
    return next((version for version in _versions(client, name, kind) if alias in version.aliases), None)


def _versions(client: Any, name: str, kind: str) -> list[Version]:
    """Reads the whole list of a model once; asking for an alias that is not there is an error in MLflow, and not one error but two."""
    from mlflow.exceptions import MlflowException

    try:
        aliases: dict[int, list[str]] = {}
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault(int(number), []).append(alias)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    found, page = [], None
    while True:
        some = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=page)
        found += [_version(entry, kind, aliases) for entry in some]
        page = some.token
        if not page:
            return sorted(found, key=lambda version: -version.number)


def _version(entry: Any, kind: str, aliases: Mapping[int, list[str]] | None = None) -> Version:
    number = int(entry.version)
    return Version(
        name=entry.name,
        kind=kind,
        number=number,
        weights=entry.tags.get(WEIGHTS_TAG, ""),
        aliases=tuple(sorted(entry.aliases if aliases is None else aliases.get(number, []))),
        tags=dict(entry.tags),
        created_seconds=entry.creation_timestamp / 1000,
        run_id=entry.run_id or None,
    )
