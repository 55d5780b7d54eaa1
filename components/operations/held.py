"""Holds a stage of a project: its lock on this machine, and its lease among machines that share a storage."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from components.operations.alive import here, lives
from components.store.lease import leased
from components.store.project import Project


@contextmanager
def held(project: Project, stage: str) -> Iterator[None]:
    """Holds the one turn of a stage.

    Raises:
        StageBusyError: another process has it, here or on another machine.
    """
    with project.lock(stage), leased(project, stage, here(), lives):
        yield


@contextmanager
def shared(project: Project, stage: str) -> Iterator[None]:
    """Shows other machines that a stage works of which several may; a take-down does not begin meanwhile.

    Raises:
        StageBusyError: footage is being taken down on another machine.
    """
    with leased(project, f"{stage}:{uuid.uuid4().hex}", here(), lives):
        yield
