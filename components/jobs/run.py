"""One run of the pipeline: its settings, project and progress, and how a stage is run or skipped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.sections import Config
from components.store.project import Project

Progress = Callable[[int, int, str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """What every stage is given; `source` is None for the synthetic world."""

    config: Config
    project: Project
    source: Path | None
    manifest: Path | None
    progress: Progress

    @property
    def footage(self) -> Path:
        """The folder that ingestion reads."""
        return self.source if self.source is not None else self.project.folder / "footage"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: `action` is run or skip, `why` the planner's reason, `result` its pointers and counts."""

    stage: str
    action: str
    why: str
    seconds: float
    result: dict[str, Any]


def timed(body: Callable[[], Result]) -> tuple[Result, float]:
    """Runs a stage's body and answers its result and wall seconds."""
    started = time.monotonic()
    result = body()
    return result, time.monotonic() - started


def unseen(done: int, total: int, note: str) -> None:
    """The progress of a run outside its stages, which nobody watches."""
