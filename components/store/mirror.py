"""A project's folder in a storage: the local one is a cache, pulled before a stage and pushed after it.

Tables are not in it, they lie in the storage itself; checkpoints travel on their own while a training runs. A pull brings what is
new in the storage and what went missing here; a push takes there what changed here, and removes there what went since the pull.
What is taken down is the sum of what all machines say.
Both go in an order in which nothing points to a file that is not there yet.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.store import forgotten, readings
from components.store.project import Project, write_json
from components.store.storage import Seen, Storage

# In the order of a push; a record comes after all that it speaks of.
MIRRORED = ("models", "evaluations", "samples", "sheets", "lineage", "report.html", "summary.json", "state")
LEFT_OUT = ("models/downloaded",)  # a cache of the registry
RECORDS, MANIFEST, INDEX = "state/", "manifest.json", ".mirror.json"

CURVES = ("/metrics.jsonl", "/starts.jsonl")  # of a finished training, for the report; its checkpoints stay where they are
COMPARED_BYTES = 2**20  # above this, equal names and lengths are taken for equal: a model's folder is named by what made it

Signature = list[int]


def pull(project: Project) -> list[str]:
    """Brings a project's folder up to what the storage holds, and answers the names that came; without a storage, nothing."""
    if project.storage is None:
        return []
    storage = project_storage(project)
    with _index(project) as index:
        there, here = _listed(storage), _local(project)
        if not there:
            storage.check()
        if not set(there) & set(index):
            index.clear()  # another storage, or an emptied one: what is here stays and is pushed
        came = [name for name in there if _is_new(project, storage, name, there[name], here.get(name), index.get(name))]
        for name in came:
            if name == forgotten.NAME and name in here:
                same = forgotten.merge(project, _taken_down(storage))
                index[name] = {"there": _seen(there[name]), "here": _stat(project.folder / name) if same else []}
                continue
            storage.download(name, project.folder / name)
            index[name] = {"there": _seen(there[name]), "here": _stat(project.folder / name)}
        for name in there.keys() & here.keys() - set(came):
            if name not in index or index[name]["here"] == here[name]:
                index[name] = {"there": _seen(there[name]), "here": here[name]}
        for name in index.keys() - there.keys():
            if here.get(name) == index[name]["here"]:
                (project.folder / name).unlink(missing_ok=True)
            del index[name]
    for name in storage.list("checkpoints"):
        if name.endswith(CURVES) and not (project.folder / name).is_file():
            storage.download(name, project.folder / name)
    for head in readings.heads(project):
        shows_others = head["stage"] == readings.SHOWS_OTHERS and forgotten.NAME in came
        if head["rows_removed"] or shows_others:  # of footage that another machine took down; such a training never goes on
            shutil.rmtree(project.checkpoints(head["stage"], head["key"]) / "samples", ignore_errors=True)
    return came


def push(project: Project) -> list[str]:
    """Takes to the storage what changed here since the pull, and answers the names that went; without a storage, nothing."""
    if project.storage is None:
        return []
    storage = project_storage(project)
    with _index(project) as index:
        here = _local(project)
        went = [name for name in here if name not in index or index[name]["here"] != here[name]]
        if forgotten.NAME in went:
            forgotten.merge(project, _taken_down(storage))
            here[forgotten.NAME] = _stat(project.folder / forgotten.NAME)
        for name in went:
            with contextlib.suppress(FileNotFoundError):  # removed by another run meanwhile
                storage.upload(project.folder / name, name)
        gone = [name for name in index if name not in here]
        storage.delete(sorted(gone, key=_order, reverse=True))
        for name in gone:
            del index[name]
        if went:
            there = _listed(storage)
            index.update({name: {"there": _seen(there[name]), "here": here[name]} for name in went if name in there})
    return went


def project_storage(project: Project) -> Storage:
    """Answers the project's folder in its storage."""
    return Storage(f"{project.storage}/{project.name}")


def _is_new(project: Project, storage: Storage, name: str, there: Seen, here: Signature | None, known: dict[str, Signature] | None) -> bool:
    """Answers whether a file of the storage is to come: it is not here, or it changed there since it was last looked at."""
    if here is None:
        return True
    same_there = known is not None and known["there"] == _seen(there)
    if known is not None and same_there and known["here"] != here:
        return False  # changed here, and not pushed yet
    if name.startswith((RECORDS, forgotten.NAME)) or (known is None and here[0] == there.num_bytes <= COMPARED_BYTES):
        return storage.read(name) != (project.folder / name).read_bytes()
    return here[0] != there.num_bytes if known is None else not same_there


def _taken_down(storage: Storage) -> dict[str, Any]:
    """Answers the take-downs that machines wrote down there."""
    try:
        return dict(json.loads(storage.read(forgotten.NAME)))
    except FileNotFoundError:
        return {}


def _listed(storage: Storage) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for name in MIRRORED:
        found |= storage.list(name)
    return {name: found[name] for name in sorted(found, key=_order) if not name.startswith(LEFT_OUT)}


def _local(project: Project) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    for top in MIRRORED:
        for path in _files(project.folder / top):
            name = path.relative_to(project.folder).as_posix()
            if not name.startswith(LEFT_OUT):
                with contextlib.suppress(FileNotFoundError):
                    found[name] = _stat(path)
    return {name: found[name] for name in sorted(found, key=_order)}


def _files(path: Path) -> Iterator[Path]:
    """Answers the files at or below a path, without links and without drafts of others."""
    if path.is_file():
        yield path
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder) / name for name in files if not name.startswith(".") and not (Path(folder) / name).is_symlink())


def _order(name: str) -> tuple[int, str, bool, str]:
    folder, _, file = name.rpartition("/")
    return MIRRORED.index(name.partition("/")[0]), folder, file == MANIFEST, file


def _stat(path: Path) -> Signature:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _seen(seen: Seen) -> Signature:
    return [seen.num_bytes, seen.mtime_ns]


@contextlib.contextmanager
def _index(project: Project) -> Iterator[dict[str, Any]]:
    """Lends what was the same here and there when it was last looked at; one process at a time, kept however the block ends."""
    path = project.folder / INDEX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{INDEX}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            kept = json.loads(path.read_text())
            index: dict[str, Any] = kept["files"] if kept["storage"] == project.storage else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            index = {}
        try:
            yield index
        finally:
            write_json(path, {"storage": project.storage, "files": index})
