"""A stage as a job of its own: what it is told, as JSON, and the lines by which it answers among those of its log."""

import base64
import contextlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.jobs.run import Outcome, Progress, Run
from components.sections import Config
from components.store.project import Project
from components.store.secret_names import without_password
from components.store.telemetry import TELEMETRY_OFF

MARK = "@kinora "  # a line of a job's log that begins so is meant for the flow
HANDED_ON = (
    "MLFLOW_TRACKING_URI",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    *TELEMETRY_OFF,
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
)


class StageError(RuntimeError):
    """A stage that failed in its job; the message is the job's own sentence."""


@dataclass(frozen=True)
class JobSpec:
    """Everything a stage needs on another machine: no settings file, and nothing secret, since a job's command is shown to all."""

    project: str
    root: str
    source: str | None
    manifest: str | None
    config: dict[str, Any]
    versions: dict[str, str]
    environment: dict[str, str]

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def run(self, progress: Progress) -> Run:
        """Answers the run that the flow asked for.

        Raises:
            ValueError: this installation has other settings or versions than the flow's.
        """
        _check_versions(self.versions)
        config = Config.model_validate(self.config)
        return Run(
            config=config,
            project=Project(Path(self.root), self.project, config.cluster.storage),
            source=Path(self.source) if self.source else None,
            manifest=Path(self.manifest) if self.manifest else None,
            progress=progress,
        )


def spec_of(run: Run) -> JobSpec:
    """Answers what a job needs to run a stage as this run would; its paths do not depend on a folder.

    Raises:
        ValueError: an address that would have to be handed on holds a password.
    """
    root = run.project.root.resolve()
    return JobSpec(
        project=run.project.name,
        root=str(root),
        source=str(run.source.resolve()) if run.source else None,
        manifest=str(run.manifest.resolve()) if run.manifest else None,
        config=run.config.model_dump(mode="json") | {"root": str(root)},
        versions=versions(),
        environment=_handed_on(os.environ),
    )


def read_spec(text: str) -> JobSpec:
    """Reads a spec from JSON, from JSON in base64, or from a file of JSON.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return JobSpec(**json.loads(_json_of(text)))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"`{text[:80]}` is no spec of a job ({_one_line(error)}); hint: a flow with cluster.stages_in=job writes one"
        ) from error


def _json_of(text: str) -> str:
    if text.lstrip().startswith("{"):
        return text
    with contextlib.suppress(ValueError):
        decoded = base64.b64decode(text, altchars=b"-_", validate=True).decode()
        if decoded.startswith("{"):
            return decoded
    return Path(text).read_text()


def versions() -> dict[str, str]:
    """Answers the versions that a flow and its jobs must share."""
    return {"kinora": version("kinora"), "python": ".".join(platform.python_version_tuple()[:2])}


def _check_versions(of_flow: Mapping[str, str]) -> None:
    for name, here in versions().items():
        if of_flow.get(name) != here:
            hint = f"run both from the same image, or install {name} {here}"
            raise ValueError(f"the cluster has {name} {here} and the flow {of_flow.get(name)}; hint: {hint}")


def _handed_on(variables: Mapping[str, str]) -> dict[str, str]:
    found = {name: variables[name] for name in HANDED_ON if name in variables}
    for name, value in found.items():
        if without_password(value) != value:
            apart = (
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                if name.startswith("MLFLOW")
                else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
            raise ValueError(
                f"{name} holds a password, which every reader of the job would see; hint: keep it in {apart}, here and on the cluster"
            )
    return found


def said_progress(done: int, total: int, note: str) -> str:
    """The line of a job that tells its progress."""
    return _line({"progress": [done, total, note]})


def said_outcome(outcome: Outcome) -> str:
    """The last line of a job that did its work."""
    return _line({"outcome": asdict(outcome)})


def said_error(error: BaseException) -> str:
    """The last line of a job that failed: one sentence, and whether a second try could mend it."""
    told: dict[str, Any] = {"kind": "failure", "sentence": without_password(_one_line(error)) or type(error).__name__}
    if isinstance(error, ValueError | FileNotFoundError):
        told["kind"] = "ValueError"
    elif isinstance(error, OSError) and error.errno:
        told |= {"kind": "OSError", "arguments": [error.errno, error.strerror, str(error.filename) if error.filename else None]}
    return _line({"error": told})


def heard(line: str) -> dict[str, Any] | None:
    """Answers what a line of a job's log says to the flow, or None for an ordinary one."""
    if not line.startswith(MARK):
        return None
    try:
        told = json.loads(line.removeprefix(MARK))
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def raise_told(told: Mapping[str, Any]) -> None:
    """Raises in the flow what a job's error line says.

    Raises:
        ValueError, OSError, StageError: by its kind.
    """
    match told["kind"]:
        case "ValueError":
            raise ValueError(told["sentence"])
        case "OSError":
            raise OSError(*told["arguments"])
    raise StageError(told["sentence"])


def _line(told: Mapping[str, Any]) -> str:
    return MARK + json.dumps(told, separators=(",", ":"), default=str)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
