"""A project's folder: where its tables, checkpoints, models and records lie, and the lock of a stage."""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = "{project}"


class StageBusyError(ValueError):
    """Another run holds the lock of this stage; the message says which."""


@dataclass(frozen=True)
class Project:
    """One project below the root; registries and servers of all projects lie beside it in the root.

    With a storage, the URI of a folder, tables lie there and the rest of the project's folder is a cache of what lies there.
    `clips_version` holds every read of the clips at one version of the table, as a training wants it; such clips are not written.
    `clips_lifted` are those in quarantine there that such reads take all the same, since the training began with them.
    """

    root: Path
    name: str
    storage: str | None = None
    clips_version: int | None = None
    clips_lifted: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def table(self, name: str) -> str:
        """Answers the path or the URI of a table."""
        return f"{self.storage or self.root}/{self.name}/tables/{name}.lance"

    def checkpoints(self, stage: str, key: str) -> Path:
        return self.folder / "checkpoints" / stage / key[:16]

    def model(self, stage: str, key: str) -> Path:
        return self.folder / "models" / stage / key[:16]

    def sheet(self, name: str) -> Path:
        return self.folder / "sheets" / name

    def sample_file(self, sample_id: str, group: str) -> Path:
        """Answers where a sample is written for people to look at."""
        return self.samples / f"{group}-{sample_id[:8]}.mp4"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{(self.root / 'mlflow.db').resolve()}"

    @property
    def artifacts(self) -> Path:
        return (self.root / "mlartifacts").resolve()

    def record(self, stage: str) -> dict[str, Any] | None:
        """Answers what the last whole run of a stage wrote down, or None; a torn record counts as none."""
        record = read_json(self.folder / "state" / f"{stage}.json")
        return None if record is None else _moved(record, HERE, str(self.folder))

    def write_record(self, stage: str, record: dict[str, Any]) -> None:
        """Writes a stage's record in one atomic step; paths in it are kept relative to the folder, which may be elsewhere tomorrow."""
        write_json(self.folder / "state" / f"{stage}.json", _moved(record, str(self.folder), HERE))

    @contextlib.contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Holds the one lock of a project and stage; the system frees it when the holder dies.

        Raises:
            StageBusyError: another process holds it.
        """
        path = self.folder / "locks" / f"{stage}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise StageBusyError(
                    f"`{stage}` of project `{self.name}` is already running ({holder}); hint: wait for it, or use another `--project`"
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            handle.flush()
            yield
            handle.truncate(0)


def _moved(value: Any, old: str, new: str) -> Any:
    """Answers a JSON value with the paths in it that begin with one folder below another."""
    if isinstance(value, dict):
        return {key: _moved(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(inner, old, new) for inner in value]
    if isinstance(value, str) and value.startswith(f"{old}/"):
        return new + value.removeprefix(old)
    return value


def read_json(path: Path) -> dict[str, Any] | None:
    """Answers the mapping that a file of JSON holds, or None where it is missing or torn."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON beside its place, then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=1, sort_keys=True))
    os.replace(beside, path)


def project_of(project: str | None, source: str | os.PathLike[str] | None = None) -> str:
    """Answers the name of the project that a run works in: the one it is given, else that of its footage's folder, else `demo`.

    Raises:
        ValueError: nothing of it is left as a name.
    """
    if project or not source:
        return project_name(project or "demo")
    named = Path(source).resolve()
    return project_name(named.parent.name if set(named.name) & set("*?[") else named.name)


def project_name(text: str) -> str:
    """Answers a slug fit for folders and registered model names.

    Raises:
        ValueError: nothing of the text is left.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-")
    if not slug:
        raise ValueError(f"`{text}` gives no project name; hint: `--project NAME` with letters or digits")
    return slug
