"""Watches a stage at work: what it is doing goes to a file that `kinora status` reads, what it spent into its record."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from components.jobs.goodput import StepsTaken
from components.jobs.run import Run
from components.operations import running
from components.operations.freshness import Freshness
from components.operations.plan import resumes_from
from components.operations.spent import Meter
from components.stages import TRAIN_STAGES
from components.store.project import Project


class Watched:
    """A context around a stage's body; `run` is the run with a progress that is noted on its way to whoever watches.

    A stage's own work is what lies between its first row or step and its last; what is before and after is the price of
    orchestration.
    """

    def __init__(self, run: Run, stage: str, freshness: Freshness) -> None:
        self.stage, self.freshness, self._passed_on = stage, freshness, run.progress
        self.run = dataclasses.replace(run, progress=self._progress)
        self._first: float | None = None  # when the first row or step was begun
        self._last = 0.0
        self._phase: tuple[int, int] = (0, -1)  # done and total as they were said last
        self._place = running.stage_file(run.project, stage)
        self._before = self._killed_before()
        self._project = run.project

    def __enter__(self) -> "Watched":
        self._began = time.time()
        self._meter = Meter(_folders(self._project))
        said: dict[str, Any] = {"stage": self.stage, "key": self.freshness.key, "why": self.freshness.why, **self._before}
        if self.stage in TRAIN_STAGES:
            said["resumes_from"] = resumes_from(self._project, self.stage, self.freshness.key)
        self._heartbeat = running.Heartbeat(self._place, said, lambda: {"core_seconds": round(self._meter.sample(), 1)})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._heartbeat.end(running.DONE)
        else:
            self._heartbeat.end(running.FAILED, error=running.sentence(error))

    def spent(self, seconds: float, result: Mapping[str, Any]) -> dict[str, Any]:
        """Answers what goes into the record, given the wall seconds and what the stage answered, a training's `steps` among it."""
        found = self._meter.spent()
        first, last = self._first, self._last
        steps = StepsTaken(**result["steps"]) if "steps" in result else None
        if steps is not None:  # what was reported before was of an earlier call
            first = steps.began_at
        worked = steps.taken if steps is not None else self.freshness.todo
        return {
            "core_seconds": round(found.core_seconds, 2),
            "gpu_seconds": round(found.gpu_seconds, 2),
            "reserved": found.reserved,
            "num_bytes": found.num_bytes,
            "worked": worked,
            "work_started_at": first,
            "work_seconds": round(max(0.0, last - first), 3) if first is not None else 0.0,
            "attempts": 1 + self._before["killed"],
            "seconds_of_all_attempts": round(seconds + self._before["seconds_before"], 2),
            **({"useful_steps": steps.useful, "repeated_steps": steps.repeated} if steps is not None else {}),
        }

    def _progress(self, done: int, total: int, note: str) -> None:
        now = time.time()
        self._first = self._first or now
        if (done, total) != self._phase:
            self._last = now
            news = {"done": done, "total": total, "note": note}
            if total != self._phase[1] or done < self._phase[0]:  # another kind of row begins
                news |= {"phase_began_at": now, "phase_began_with": done}
            self._phase = (done, total)
            self._heartbeat.say(**news)
        self._passed_on(done, total, note)

    def _killed_before(self) -> dict[str, Any]:
        """Answers what earlier attempts at the same work took that did not come to their end."""
        said = running.read(self._place)
        if said.get("state") not in (running.KILLED, running.FAILED) or said.get("key") != self.freshness.key:
            return {"killed": 0, "seconds_before": 0.0}
        seconds = said.get("beat_at", 0.0) - said.get("began_at", 0.0)
        return {"killed": said.get("killed", 0) + 1, "seconds_before": said.get("seconds_before", 0.0) + max(0.0, seconds)}


def _folders(project: Project) -> tuple[Path, ...]:
    return (project.folder, project.artifacts / project.name)
