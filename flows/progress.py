"""What a person sees while a stage works: a bar with the time left in the terminal, a progress artifact in Prefect."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.away import Shown

ARTIFACT_SECONDS = 5.0


class StageProgress:
    """A callback `(done, total, note)` that moves one bar and, at most every few seconds, one Prefect artifact."""

    def __init__(self, stage: str, bar: Progress) -> None:
        self.stage = stage
        self.bar = bar
        self.task: TaskID = bar.add_task(stage, total=None, note="")
        self.show = Shown()
        self.artifact: UUID | None = None
        self.show(lambda: self._send(0.0, stage))
        self.sent = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.bar.update(self.task, completed=done, total=max(total, 1), note=note)
        now = time.monotonic()
        if now - self.sent >= ARTIFACT_SECONDS or done >= total:
            self.sent = now
            self.show(lambda: self._send(min(100.0, 100.0 * done / max(total, 1)), f"{self.stage} {note}".strip()))

    def _send(self, share: float, said: str) -> None:
        if self.artifact is None:
            key = f"{self.stage.replace('_', '-')}-progress"
            self.artifact = cast(UUID, create_progress_artifact(progress=share, key=key, description=said))
        else:
            update_progress_artifact(self.artifact, progress=share, description=said)


@contextlib.contextmanager
def stage_progress(stage: str) -> Iterator[StageProgress]:
    """Shows a stage's progress on stderr until the block ends."""
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(file=sys.stderr), refresh_per_second=2, transient=False) as bar:
        yield StageProgress(stage, bar)
