"""How a training's files travel when the project lies in a storage: the models and the newest checkpoint come, the rest goes.

A job then runs on any machine, with an empty folder as well as with its own from before.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from components.store import mirror
from components.store.checkpoints import Uploads, bring_step, fetch_newest, storage_of, upload_step
from components.store.project import Project
from components.store.storage import Storage
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.shares import told_by_all

Job = Callable[[Mapping[str, Any], TrainContext, Checkpoints], None]


def travels(job: Job) -> Callable[[Mapping[str, Any], TrainContext], None]:
    """Makes of job(payload, context, checkpoints) what a worker is told to run: job(payload, context)."""

    @wraps(job)
    def run(payload: Mapping[str, Any], context: TrainContext) -> None:
        with checkpoints_of(payload, context) as checkpoints:
            job(payload, context, checkpoints)

    return run


@contextmanager
def checkpoints_of(payload: Mapping[str, Any], context: TrainContext) -> Iterator[Checkpoints]:
    """Lends a training's checkpoints; with a storage they go there as they are saved, and what was exported goes at the end."""
    folder, root = Path(payload["checkpoints"]), Path(payload["root"])
    uri = payload["config"]["cluster"]["storage"]
    if uri is None:
        yield Checkpoints(folder)
        return
    project = Project(root, payload["project"], uri)
    storage = storage_of(project, folder)
    mirror.pull(project)
    step = _same_step(storage, folder, context)
    if context.rank != 0:
        yield Checkpoints(folder, at_most=step)
        return
    uploads = Uploads(storage, folder)
    if step >= 0:
        uploads(folder / f"step_{step:06d}")  # an earlier upload may have failed
    try:
        yield Checkpoints(folder, saved=uploads, at_most=step)
    finally:
        uploads.close()
    mirror.push(project)


def _same_step(storage: Storage, folder: Path, context: TrainContext) -> int:
    """Answers the step that every worker goes on from, -1 for none: the newest that rank 0 has or can get, and now all have."""
    found = fetch_newest(storage, folder) if context.rank == 0 else None
    step = -1 if found is None else found
    if context.world_size == 1:
        return step
    if context.rank == 0 and step >= 0:  # which sends nothing where the storage has the very same
        upload_step(storage, folder / f"step_{step:06d}", f"step_{step:06d}")
    step = int(told_by_all(step, context)[0])
    if step >= 0:
        bring_step(storage, folder, step)
    return step
