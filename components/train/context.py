"""What a train loop is given by the place it runs in: rank, device, threads, a report and a wrapper; stdlib only."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.train.quarantine import NAME, QuarantineFile

if TYPE_CHECKING:
    from torch import nn


class Beside(Protocol):
    """Runs functions beside the training, one at a time."""

    def is_busy(self) -> bool: ...

    def start(self, what: str, entry: str, *arguments: str) -> None: ...

    def close(self) -> None: ...


class Aside(Protocol):
    """Notes the clips that a step was skipped for, surely or as it seems, and with no reason that a step was taken after such."""

    def __call__(self, step: int, reason: str | None, clip_ids: Sequence[str], sure: bool = False) -> None: ...


def nothing_aside(step: int, reason: str | None, clip_ids: Sequence[str], sure: bool = False) -> None:
    """Notes no clips: of every rank but 0."""


@dataclass(frozen=True)
class TrainContext:
    """One worker's place in a training.

    Attributes:
        rank: this worker's number; rank 0 alone saves checkpoints, reports and exports.
        device: for torch, `cpu` or `cuda:0`.
        threads: torch threads of this worker, already set.
        report: report(step, metrics) keeps one line a step; call it before a checkpoint of the same step is saved.
        wrap: wrap(model) answers what to call in the forward pass (DDP when world_size > 1); the model itself keeps the
            parameters, names and state.
        begin: begin(step) notes that a worker takes its first step now, after so many that a checkpoint had.
        sharded: each worker keeps a part of the large models and of what is kept beside them, where `wrap` would leave it all of them.
        quarantine: notes the clips that steps were skipped for.
        beside: runs on what this worker's machine has to spare, whatever does not belong to the steps; None: nobody does.
    """

    rank: int
    world_size: int
    device: str
    threads: int
    report: Callable[[int, Mapping[str, float]], None]
    wrap: Callable[["nn.Module"], "nn.Module"]
    begin: Callable[[int], None] = lambda step: None
    sharded: bool = False
    quarantine: Aside = nothing_aside
    beside: Beside | None = None

    @classmethod
    def local(cls, folder: Path, device: str = "cpu", threads: int = 1) -> "TrainContext":
        """Answers the context of a lone worker in this process, for tests and benchmarks; it reports to `metrics.jsonl`."""
        return of_worker(0, 1, device, threads, Path(folder) / "metrics.jsonl", lambda model: model)


def of_worker(
    rank: int,
    world_size: int,
    device: str,
    threads: int,
    metrics_file: Path,
    wrap: Callable[["nn.Module"], "nn.Module"],
    sharded: bool = False,
) -> TrainContext:
    """Answers the context of one worker; rank 0 reports to the metrics file, the others to nobody."""
    if rank != 0:
        return TrainContext(rank, world_size, device, threads, nothing_to_report, wrap, sharded=sharded)
    metrics, aside = MetricsFile(Path(metrics_file)), QuarantineFile(Path(metrics_file).with_name(NAME))

    def begin(step: int) -> None:
        metrics.begin(step)
        aside.begin(step)

    return TrainContext(rank, world_size, device, threads, metrics.append, wrap, begin, sharded, aside.append)


def fitted_steps(steps: int, max_epochs: int, batch_size: int, clips: int) -> int:
    """Answers the number of steps of a training: fewer than set where so many would go through few clips more than `max_epochs` times."""
    return min(steps, max(1, math.ceil(max_epochs * clips / max(1, min(batch_size, clips)))))


def nothing_to_report(step: int, metrics: Mapping[str, float]) -> None:
    """The report of every rank but 0."""


class MetricsFile:
    """A JSON line a step, each step once: a resumed run drops the lines that it is going to write again."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._last_step: int | None = None

    def begin(self, step: int) -> None:
        """Notes beside the file when a worker takes its first step, after how many, and how far an earlier one had come."""
        reached = max((past for past, _ in read_metrics(self.path)), default=step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with starts_file(self.path).open("a") as handle:
            handle.write(json.dumps({"step": step, "reached": max(step, reached), "at": time.time()}) + "\n")

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the line of a step; a step that is not after the last one is left as it was written first."""
        if self._last_step is None:
            self._drop_from(step)
        elif step <= self._last_step:
            return
        self._last_step = step
        with self.path.open("a") as handle:
            handle.write(json.dumps({"step": int(step), **{key: float(value) for key, value in metrics.items()}}) + "\n")

    def _drop_from(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps({"step": past, **metrics}) + "\n" for past, metrics in read_metrics(self.path) if past < step]
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_text("".join(kept))
        os.replace(beside, self.path)


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Answers (step, metrics) of the whole lines of a metrics file, in order; a line cut by a kill is left out."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            metrics = json.loads(line)
            found.append((int(metrics.pop("step")), metrics))
        except (ValueError, KeyError, AttributeError):
            continue
    return found


@dataclass(frozen=True)
class Start:
    """A worker's first step: how many it began with, how many an earlier one had reported, and when, seconds since the epoch."""

    step: int
    reached: int
    at: float


def starts_file(metrics_file: Path) -> Path:
    return Path(metrics_file).with_name("starts.jsonl")


def read_starts(metrics_file: Path) -> list[Start]:
    """Answers every start of a training's workers, in order."""
    found = []
    try:
        lines = starts_file(metrics_file).read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found.append(Start(**json.loads(line)))
        except (ValueError, TypeError):  # a line cut by a kill
            continue
    return found
