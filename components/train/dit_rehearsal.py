"""Rehearses a training of the diffusion transformer in a process of its own, and says how long a step took and how much memory it held."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from components.models import trainer_process

MODULE = "components.train.dit_rehearsal_steps"  # started by name: whoever plans holds no torch, and memory is that of the steps alone
STEPS = 6
START_SECONDS = 180.0  # for the process to load torch and build the model


@dataclass(frozen=True)
class Spec:
    """What is rehearsed: one worker's steps of one shape.

    Attributes:
        settings: the section `dit`, with the size of a finished model that is trained further.
        latents: (C, T, H, W) of a clip.
        clips: of a step.
        text: (S, C) of a prompt's embeddings.
        seconds: after the first step, from which on none begins but the second.
        steps: at most.
    """

    settings: dict[str, Any]
    latents: tuple[int, ...]
    clips: int
    text: tuple[int, ...]
    device: str
    threads: int
    seconds: float
    steps: int = STEPS

    def as_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Rehearsed:
    """What steps took; null where not even one was finished.

    Attributes:
        num_bytes: that were held at the fullest; beside_bytes: before there was a model.
        why: there is none, in a few words.
    """

    seconds: float | None
    num_bytes: int | None
    beside_bytes: int | None = None
    why: str | None = None


def rehearse(spec: Spec) -> Rehearsed:
    """Takes a few steps; the first of several, which warms up, does not count for the time."""
    as_in_training = {**trainer_process.environment(os.environ), "OMP_NUM_THREADS": str(spec.threads)}
    command = [sys.executable, "-m", MODULE, spec.as_json()]
    with subprocess.Popen(command, env=as_in_training, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as steps:
        try:
            told, log = steps.communicate(timeout=START_SECONDS + 4 * spec.seconds)
        except subprocess.TimeoutExpired:
            steps.kill()
            told, log = steps.communicate()
            if not told:
                return Rehearsed(None, None, None, "one step took longer than it was given")
    lines = [json.loads(line) for line in told.splitlines() if line.endswith("}")]
    if not lines:
        return Rehearsed(None, None, None, _why(steps.returncode, log))
    times = [line["seconds"] for line in lines]
    return Rehearsed(median(times[1:] or times), max(line["num_bytes"] for line in lines), lines[0]["beside"])


def _why(code: int, log: str) -> str:
    if code == -9 or "OutOfMemoryError" in log or "MemoryError" in log:
        return "it ran out of memory"
    lines = log.strip().splitlines()
    return (lines[-1] if lines else f"it ended with {code}")[:200]
