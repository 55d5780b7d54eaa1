"""Who works on a project's footage on this machine: any number of stages at once, or one take-down alone.

Machines that share a storage see one another by their leases.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from typing import IO

from components.store.project import Project

GATE, INSIDE = "footage.gate", "footage"


@contextlib.contextmanager
def working(project: Project) -> Iterator[None]:
    """Held by whoever reads or writes rows and pictures; waits while a take-down is under way."""
    with _opened(project, INSIDE) as inside:
        with _opened(project, GATE) as gate:  # closed by a take-down that waits, so that new work does not go before it
            fcntl.flock(gate, fcntl.LOCK_SH)
            fcntl.flock(inside, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def alone(project: Project, on_wait: Callable[[], None]) -> Iterator[None]:
    """Held by a take-down: waits for the stages that run, and new ones wait for its end.

    Args:
        on_wait: called once when somebody is working.
    """
    with _opened(project, GATE) as gate, _opened(project, INSIDE) as inside:
        fcntl.flock(gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(inside, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(project: Project, name: str) -> Iterator[IO[str]]:
    path = project.folder / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        yield handle
