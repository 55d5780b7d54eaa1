"""Stages that the tests of components/cluster hand to Ray's actors."""

import os
import signal
import time
from pathlib import Path
from typing import Any


class Double:
    """A stage that doubles, notes who did it, and misbehaves on demand."""

    def __init__(self, factor: int, marks: str) -> None:
        self.factor = factor
        self.marks = Path(marks)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch.get("raise"):
            raise ValueError("a batch that cannot be doubled")
        time.sleep(batch.get("sleep", 0.0))
        once = self.marks / "killed"
        if batch.get("kill") == "always" or (batch.get("kill") == "once" and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": batch["value"] * self.factor, "pid": os.getpid()}


class Refuses:
    def __init__(self) -> None:
        raise ValueError("these weights are not here")


def write_and_wait(path: str, seconds: str) -> None:
    Path(path).write_text(f"threads {os.environ['OMP_NUM_THREADS']}")
    time.sleep(float(seconds))
