"""Removes what nothing refers to, and nothing else: of trainings that no record, no registered version and no resume needs.

What a running stage may use is never touched: the turn of each training is held while its folders are looked at, and where
another process has it, here or on another machine, they are left alone.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.cluster.folders import abandoned_folders
from components.models.weights import DamagedFolderError, digest_folder
from components.operations.finetune import base_model
from components.operations.freshness import assess, finished, text_encoder_place, training_key
from components.operations.held import held, shared
from components.operations.lineage import versions_of
from components.operations.readings import tag_of
from components.sections import Config
from components.stages import TRAIN_STAGES
from components.store import mirror, readings, tables
from components.store.checkpoints import remove_training, stored_trainings
from components.store.filters import among
from components.store.project import Project, StageBusyError
from components.store.turns import working

OLD_SECONDS = 3600.0  # a draft that nobody touched for so long is left over
TABLES: dict[str, Callable[[Project], tables.Table]] = {"videos": tables.videos, "clips": tables.clips, "samples": tables.samples}
NOT_DRAFTS = ("footage", "tables", "locks", "ray-train")  # folders whose hidden files are none of ours, in use, or go on their own


@dataclass(frozen=True)
class Garbage:
    """One thing that nothing refers to; `remove` takes it away and answers the bytes that were freed."""

    kind: str
    name: str
    num_bytes: int
    remove: Callable[[], int]


@dataclass(frozen=True)
class Kept:
    """What the trainings of a stage need: the first 16 characters of their keys, and digests of weights."""

    keys: frozenset[str]
    weights: frozenset[str]


def collect(config: Config, project: Project, dry_run: bool) -> tuple[list[Garbage], list[str]]:
    """Finds what nothing refers to and, unless it is a dry run, removes it.

    Returns:
        what was found, with the bytes that each frees; sentences about what was left alone.

    Raises:
        RegistryUnavailableError: MLflow is away, so nobody can say what it refers to.
        StageBusyError: another machine that shares the storage takes footage down.
    """
    with working(project), shared(project, "gc"):
        return _collect(config, project, dry_run)


def by_kind(found: Iterable[Garbage]) -> dict[str, tuple[int, int]]:
    """Adds up how many things and bytes there are of each kind."""
    sums: dict[str, tuple[int, int]] = {}
    for one in found:
        count, num_bytes = sums.get(one.kind, (0, 0))
        sums[one.kind] = (count + 1, num_bytes + one.num_bytes)
    return sums


def _collect(config: Config, project: Project, dry_run: bool) -> tuple[list[Garbage], list[str]]:
    found: list[Garbage] = []
    notes: list[str] = []
    busy: list[str] = []
    registered = frozenset(version.weights for version in versions_of(project))
    for stage in TRAIN_STAGES:
        try:
            with held(project, stage):
                mirror.pull(project)  # a training of another machine may have begun or ended since
                found += _done(_of_training(stage, config, project, registered), dry_run)
        except StageBusyError as error:
            busy.append(stage)
            notes.append(f"what belongs to `{stage}` is left alone: {error}")
    try:
        with held(project, "encode"), held(project, "train_dit"):
            found += _done(_text_encoders(config, project), dry_run)
    except StageBusyError as error:
        notes.append(f"text encoders are left alone: {error}")
    found += _done(_downloads(config, project, registered), dry_run)
    found += _done(_samples(project, registered), dry_run)
    found += _done(_versions(project), dry_run)
    found += _done(_drafts(project, busy), dry_run)
    found += _done((_folder("Ray's temporary folders", folder, str(folder)) for folder in abandoned_folders()), dry_run)
    if not dry_run:
        mirror.push(project)
    return found, notes


def _done(found: Iterable[Garbage], dry_run: bool) -> list[Garbage]:
    if dry_run:
        return list(found)
    return [Garbage(one.kind, one.name, one.remove(), one.remove) for one in list(found)]


def _kept(stage: str, config: Config, project: Project, registered: frozenset[str]) -> Kept:
    """What is referred to: the record, the training that the settings ask for now, the one that was begun last, and the registry."""
    record = finished(stage, project)
    heads = [head for head in readings.heads(project) if head["stage"] == stage]
    keys = {assess(stage, config, project).key}
    keys |= {training_key(record["maker"], record["rows_digest"])} if record else set()
    keys |= {head["key"] for head in heads[-1:]}  # killed, perhaps under other settings, and to be resumed
    keys |= {head["key"] for head in heads if head.get("weights") in registered}
    weights = {str(record["result"].get("weights"))} if record else set()
    return Kept(frozenset(key[: readings.KEY_LENGTH] for key in keys), registered | weights)


def _of_training(stage: str, config: Config, project: Project, registered: frozenset[str]) -> Iterator[Garbage]:
    kept = _kept(stage, config, project, registered)
    for folder in _folders(project.folder / "checkpoints" / stage):
        if folder.name not in kept.keys:
            yield _folder("checkpoints", folder, f"checkpoints/{stage}/{folder.name}")
    for key, num_bytes in stored_trainings(project, stage).items():
        if key not in kept.keys:
            yield _stored(project, stage, key, num_bytes)
    for folder in _folders(project.folder / "models" / stage):
        if folder.name not in kept.keys and _weights_of(folder) not in kept.weights:
            yield _folder("models", folder, f"models/{stage}/{folder.name}")
    for folder in _folders(project.folder / "ray-train"):
        if folder.name.startswith(f"{stage}-"):
            yield _folder("Ray Train's folders", folder, f"ray-train/{folder.name}")
    for head in readings.heads(project):
        if head["stage"] == stage and head["key"][: readings.KEY_LENGTH] not in kept.keys:
            yield _reading(project, head)


def _stored(project: Project, stage: str, key: str, num_bytes: int) -> Garbage:
    def remove() -> int:
        remove_training(project, stage, key)
        return num_bytes

    return Garbage("checkpoints", f"{project.storage}/{project.name}/checkpoints/{stage}/{key}", num_bytes, remove)


def _reading(project: Project, head: dict[str, Any]) -> Garbage:
    """A reading of no training, and the tag that keeps its version."""
    files = [readings.rows_file(project, head["stage"], head["key"]), readings.head_file(project, head["stage"], head["key"])]

    def remove() -> int:
        if tables.exists(project, "clips"):
            tables.clips(project).untag(tag_of(head["stage"], head["key"]))
        return _unlink(files)

    return Garbage("readings", f"lineage/{head['stage']}/{files[1].stem}", _size(files), remove)


def _text_encoders(config: Config, project: Project) -> Iterator[Garbage]:
    """Pretrained text encoders but that of the settings and that of the embeddings in the table; a registered model has its own copy."""
    embedded = (finished("encode", project) or {}).get("settings", {}).get("text_encoder")
    settings = (config.text_encoder.model_dump(mode="json"), embedded)
    wanted = {text_encoder_place(one, project) for one in settings if one}
    for folder in _folders(project.folder / "models" / "text_encoder"):
        if folder not in wanted:
            yield _folder("models", folder, f"models/text_encoder/{folder.name}")


def _downloads(config: Config, project: Project, registered: frozenset[str]) -> Iterator[Garbage]:
    """Copies of models but those of the registry, of the one that `dit.finetune` names, and of what a killed training goes on from."""
    base, heads = base_model(config, project), readings.heads(project)
    needed = {head["stands_on"].get("text-to-video") for head in heads if not head.get("weights")} | {base.weights if base else None}
    wanted = {weights[: readings.KEY_LENGTH] for weights in {*registered, *needed} if weights}
    for place in ("downloaded", "bases"):
        for folder in _folders(project.folder / "models" / place):
            if folder.name not in wanted:
                yield _folder("downloaded models", folder, f"models/{place}/{folder.name}")


def _samples(project: Project, registered: frozenset[str]) -> Iterator[Garbage]:
    """Samples of models that are neither registered nor those of the project's records, and files without a row."""
    if not tables.exists(project, "samples"):
        return
    records = [project.record(stage) or {} for stage in ("train_dit", "evaluate")]
    wanted = registered | {str(record.get("result", {}).get(name)) for record in records for name in ("weights", "model")}
    table = tables.samples(project)
    rows = table.read(["sample_id", "group", "model"])
    orphans = [row["sample_id"] for row in rows if row["model"] not in wanted]
    if orphans:

        def remove() -> int:
            table.delete(among("sample_id", orphans))
            return 0  # the bytes go with the old versions

        yield Garbage("samples", f"{len(orphans)} samples of models that are gone", 0, remove)
    files = {project.sample_file(row["sample_id"], row["group"]).name for row in rows if row["model"] in wanted}
    for path in sorted(project.samples.glob("*.mp4")):
        if path.name not in files:
            yield Garbage("samples", f"samples/{path.name}", path.stat().st_size, lambda path=path: _unlink([path]))  # type: ignore[misc]


def _versions(project: Project) -> Iterator[Garbage]:
    for name, opened in TABLES.items():
        if tables.exists(project, name):
            table = opened(project)
            count, num_bytes = table.old_versions()
            if count:
                yield Garbage(
                    "old table versions",
                    f"{count} of table {name}",
                    num_bytes,
                    lambda table=table: table.remove_old_versions()[1],  # type: ignore[misc]
                )


def _drafts(project: Project, busy: list[str]) -> Iterator[Garbage]:
    """Hidden files and folders of ours that were never finished, untouched for an hour."""
    for top in sorted(project.folder.iterdir() if project.folder.is_dir() else ()):
        if top.name in NOT_DRAFTS or not top.is_dir():
            continue
        for folder, below, files in os.walk(top):
            drafts = [Path(folder, name) for name in [*below, *files] if name.startswith(".")]
            below[:] = [name for name in below if not name.startswith(".") and name not in busy]
            for path in sorted(drafts):
                if _is_old(path):
                    yield _folder("drafts", path, str(path.relative_to(project.folder)))


def _is_old(path: Path) -> bool:
    places = [path, *path.rglob("*")] if path.is_dir() else [path]
    with contextlib.suppress(FileNotFoundError):
        return time.time() - max(place.lstat().st_mtime for place in places) > OLD_SECONDS
    return False


def _folders(place: Path) -> list[Path]:
    return sorted(folder for folder in place.glob("[!.]*") if folder.is_dir())


def _weights_of(folder: Path) -> str:
    try:
        return digest_folder(folder)
    except DamagedFolderError:
        return ""


def _folder(kind: str, path: Path, name: str) -> Garbage:
    files = [inner for inner in path.rglob("*") if inner.is_file() and not inner.is_symlink()] if path.is_dir() else [path]
    num_bytes = _size(files)

    def remove() -> int:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return num_bytes

    return Garbage(kind, name, num_bytes, remove)


def _size(files: Iterable[Path]) -> int:
    """Answers the bytes that removing files frees: one that has another name elsewhere, a registered model's for one, frees none."""
    found = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            found += state.st_size if state.st_nlink == 1 else 0
    return found


def _unlink(files: Iterable[Path]) -> int:
    files = list(files)
    freed = _size(files)
    for path in files:
        path.unlink(missing_ok=True)
    return freed
