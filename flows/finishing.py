"""What a run leaves at its end, whoever started it: the report, the summary and the sample files of its project."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.jobs.run import Outcome, Run
from components.operations.reported import report_is_due
from flows.away import wait_for_prefect
from flows.memory import Peak, watched_memory

if TYPE_CHECKING:
    from components.report.data import ReportData


@dataclass
class Course:
    """A run from its start to its end; `report` is null until then, and where nothing was stale."""

    peak: Peak
    began: float = field(default_factory=time.monotonic)
    outcomes: list[Outcome] = field(default_factory=list)
    report: "ReportData | None" = None
    in_flow: bool = False

    def spent(self) -> tuple[float, int]:
        """Answers the seconds and the peak memory in bytes so far."""
        return time.monotonic() - self.began, self.peak.num_bytes


_course: ContextVar[Course] = ContextVar("course")


@contextlib.contextmanager
def watched_course() -> Iterator[Course]:
    """Counts a run's time and memory from here on; a flow without one around it begins one of its own."""
    with watched_memory() as peak:
        before = _course.set(Course(peak))
        try:
            yield _course.get()
        finally:
            _course.reset(before)


@contextlib.contextmanager
def finished(run: Run) -> Iterator[None]:
    """Writes what a run leaves once the block ended well; of blocks within one another the outermost counts.

    A run that found all fresh writes it only where an earlier one ended before it could.
    """
    with contextlib.ExitStack() as own:
        course = _course.get(None) or own.enter_context(watched_course())
        if course.in_flow:
            yield
            return
        course.in_flow = True
        try:
            yield
        finally:
            course.in_flow = False
        if any(outcome.action == "run" for outcome in course.outcomes) or report_is_due(run.project):
            from components.jobs.finish import finish  # not for those who only register a flow

            course.report = finish(run, course.outcomes, course.spent)
            wait_for_prefect()  # which the end of this flow is told


def note(outcomes: Sequence[Outcome]) -> None:
    """Keeps what became of stages for the report."""
    _course.get().outcomes.extend(outcomes)
