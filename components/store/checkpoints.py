"""Checkpoints of a training in a storage: uploaded beside the training, which never waits, and fetched where it goes on.

A step is whole when its manifest is there, which goes last; what is fetched is checked against its digests, and the step before is
taken where they differ.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.models.weights import MANIFEST, DamagedFolderError, verify_folder
from components.store.project import Project
from components.store.storage import Storage, StorageAwayError, StorageError

logger = logging.getLogger("kinora")

STEP = re.compile(r"step_(\d{6,})")
METRICS, SAMPLES = "metrics.jsonl", "samples"
LINES = (METRICS, "starts.jsonl", "quarantined.jsonl")
FETCH_LOCK = "fetch.lock"
UPLOADED = ".upload."  # a second name of a folder under way, which outlives the pruning of the first


class Uploads:
    """Takes the checkpoints of a training to a storage in a thread: one upload at a time, the newest checkpoint next.

    A failure is a warning; the next checkpoint is tried anew.
    """

    def __init__(self, storage: Storage, folder: Path, keep: int = 2) -> None:
        self.storage, self.folder, self.keep = storage, Path(folder), keep
        self._changed = threading.Condition()
        self._newest: Path | None = None
        self._closed = False
        for left in self.folder.glob(f"{UPLOADED}*"):
            shutil.rmtree(left, ignore_errors=True)
        self._thread = threading.Thread(target=self._run, name="checkpoint-uploads", daemon=True)
        self._thread.start()

    def __call__(self, place: Path) -> None:
        """Says that a checkpoint was saved, and returns at once."""
        with self._changed:
            self._newest = Path(place)
            self._changed.notify()

    def close(self) -> None:
        """Waits for the newest checkpoint and what was reported since to arrive, or to fail for good."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closed)
                place, self._newest = self._newest, None
            try:
                self._send_beside()
                if place is None:
                    return
                self._send(place)
            except (FileNotFoundError, shutil.Error):  # pruned before it had a second name: a newer one waits
                continue
            except (StorageAwayError, StorageError, OSError) as error:
                logger.warning("checkpoint %s was not uploaded, the next one is tried: %s", place.name if place else METRICS, error)
                if place is None:
                    return

    def _send(self, place: Path) -> None:
        held = place.with_name(f"{UPLOADED}{place.name}")
        try:
            shutil.copytree(place, held, copy_function=_link)
            upload_step(self.storage, held, place.name)
        finally:
            shutil.rmtree(held, ignore_errors=True)
        prune(self.storage, int(place.name.removeprefix("step_")), self.keep)

    def _send_beside(self) -> None:
        """Uploads metrics and samples, before the checkpoint that they lead to."""
        there = self.storage.list(SAMPLES) if (self.folder / SAMPLES).is_dir() else {}
        for path in sorted((self.folder / SAMPLES).glob("step_*")):
            name = f"{SAMPLES}/{path.name}"
            if name not in there or there[name].num_bytes != path.stat().st_size:
                self.storage.upload(path, name)
        for name in LINES:
            if (self.folder / name).is_file():
                self.storage.upload(self.folder / name, name)


def upload_step(storage: Storage, place: Path, name: str) -> None:
    """Uploads a checkpoint's folder; its manifest goes last, and one that is there already is left as it is."""
    files = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    if f"{name}/{MANIFEST}" in storage.list(name):
        if storage.read(f"{name}/{MANIFEST}") == (place / MANIFEST).read_bytes():
            return
        storage.delete([f"{name}/{MANIFEST}"])
    for file in sorted(files, key=lambda file: file == MANIFEST):
        storage.upload(place / file, f"{name}/{file}")


def whole_steps(storage: Storage) -> list[int]:
    """Answers the steps of a training whose upload was finished, in order."""
    return _whole(storage.list())


def newest_finished(project: Project, folder: Path) -> int | None:
    """Answers the newest step of a training that was finished, in the project's storage if it has one; its files are not read.

    None: there is none, or nobody can say now.
    """
    try:
        if project.storage is not None:
            return max(whole_steps(storage_of(project, folder)), default=None)
        return max(_whole(path.relative_to(folder).as_posix() for path in folder.glob(f"step_*/{MANIFEST}")), default=None)
    except (StorageAwayError, StorageError, OSError):
        return None


def prune(storage: Storage, written: int, keep: int) -> None:
    """Removes torn steps, steps from beyond the one just written, and all but the newest `keep`."""
    listed = storage.list()
    kept = [step for step in _whole(listed) if step <= written][-keep:]
    gone = [name for name in listed if (step := _step_of(name)) is not None and step not in kept]
    storage.delete(sorted(gone, key=lambda name: not name.endswith(f"/{MANIFEST}")))


def fetch_newest(storage: Storage, folder: Path) -> int | None:
    """Brings a training's newest whole checkpoint here, unless it is here already, and answers its step; None where there is none."""
    here = newest_here(folder)
    for step in reversed(whole_steps(storage)):
        if here is not None and step <= here:
            break
        try:
            fetch_step(storage, folder, step)
        except DamagedFolderError as error:
            logger.warning("checkpoint step_%06d of `%s` is not whole, the one before it is taken: %s", step, storage.uri, error)
            continue
        fetch_beside(storage, folder)
        return step
    return here


def fetch_step(storage: Storage, folder: Path, step: int) -> None:
    """Brings one checkpoint here, whole or not at all.

    Raises:
        DamagedFolderError: what lies in the storage is not what was written.
    """
    name = f"step_{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    try:
        for file in storage.list(name):
            storage.download(file, draft / file.removeprefix(f"{name}/"))
        verify_folder(draft)
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(draft, folder / name)
    except FileNotFoundError as error:
        raise DamagedFolderError(f"`{storage.uri}/{name}` went away while it was read") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def bring_step(storage: Storage, folder: Path, step: int) -> None:
    """Brings one checkpoint here, unless the very one is here; of several workers on a machine one fetches it, the others wait.

    Raises:
        DamagedFolderError: as of `fetch_step`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FETCH_LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not has_step(storage, folder, step):
            fetch_step(storage, folder, step)


def has_step(storage: Storage, folder: Path, step: int) -> bool:
    """Answers whether a step is whole here and the very one of the storage: done again by other workers, a step differs by rounding."""
    if newest_here(folder, step) != step:
        return False
    manifest = f"step_{step:06d}/{MANIFEST}"
    return (folder / manifest).read_bytes() == storage.read(manifest)


def fetch_beside(storage: Storage, folder: Path) -> None:
    """Brings the metrics and samples that the storage has more of."""
    for name, seen in storage.list().items():
        if name not in LINES and not name.startswith(f"{SAMPLES}/"):
            continue
        path = folder / name
        if not path.is_file() or path.stat().st_size < seen.num_bytes:
            storage.download(name, path)


def follow(storage: Storage, folder: Path) -> None:
    """Brings the metrics and samples of a training that works, or worked, on another machine; nothing while one works here."""
    with _nobody_trains_here(folder) as alone:
        if alone:
            fetch_beside(storage, folder)


def remove_samples(project: Project, folder: Path) -> None:
    """Removes from the storage the pictures and videos that a training left on its way."""
    if project.storage is not None:
        storage = storage_of(project, folder)
        storage.delete(storage.list(SAMPLES))


def stored_trainings(project: Project, stage: str) -> dict[str, int]:
    """Answers the trainings of a stage that have checkpoints in the storage, by the first 16 characters of their keys, and bytes."""
    if project.storage is None:
        return {}
    found: dict[str, int] = {}
    for name, seen in storage_of(project, project.checkpoints(stage, "").parent).list(stage).items():
        key = name.split("/")[1]
        found[key] = found.get(key, 0) + seen.num_bytes
    return found


def remove_training(project: Project, stage: str, key: str) -> None:
    """Removes all that a training has in the storage but for its model."""
    storage = storage_of(project, project.checkpoints(stage, key))
    storage.delete(sorted(storage.list(), key=lambda name: not name.endswith(f"/{MANIFEST}")))


def storage_of(project: Project, folder: Path) -> Storage:
    """Answers the place in the storage of a folder of a project."""
    return Storage(f"{project.storage}/{folder.relative_to(project.root).as_posix()}")


def newest_here(folder: Path, at_most: int | None = None) -> int | None:
    """Answers the newest step of a local folder whose files are those of its manifest."""
    steps = sorted(step for place in folder.glob("step_*") if (step := _number(place.name)) is not None)
    steps = [step for step in steps if at_most is None or step <= at_most]
    for step in reversed(steps):
        with contextlib.suppress(DamagedFolderError):
            verify_folder(folder / f"step_{step:06d}")
            return step
    return None


@contextlib.contextmanager
def _nobody_trains_here(folder: Path) -> Iterator[bool]:
    """Holds the lock that rank 0 of a training holds on its machine, if it is free, and answers whether it was."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{METRICS}.0.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _whole(names: Iterable[str]) -> list[int]:
    return sorted(step for name in names if name.endswith(f"/{MANIFEST}") and (step := _step_of(name)) is not None)


def _step_of(name: str) -> int | None:
    return _number(name.partition("/")[0])


def _number(name: str) -> int | None:
    match = STEP.fullmatch(name)
    return int(match[1]) if match else None
