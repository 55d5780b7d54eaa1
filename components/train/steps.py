"""What the steps of every training share: their seed, what is said as they begin, and what becomes of a gradient not to be followed."""

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

import torch
from torch import Tensor

from components.train.context import TrainContext
from components.train.norms import RunningNorm
from components.train.optim import fitted_warmup
from components.train.shares import told_by_all

logger = logging.getLogger("kinora")

MAX_SKIPPED_ON_END = 20
CLIPS_NAMED = 4  # of a bad step, in its warning
OUT_OF_LINE = 5.0  # a loss so many times the middle one of its batch


class UnstableTrainingError(ValueError):
    """No gradient could be followed for many steps on end; the message says at which step and what to try."""


def seed_of(seed: int, step: int) -> int:
    """Mixes two whole numbers into the seed of one step; neighbours are far apart."""
    mixed = 0
    for value in (seed, step, 0):
        mixed = (mixed ^ (value + 0x9E3779B97F4A7C15 + (mixed << 6) + (mixed >> 2))) * 0xBF58476D1CE4E5B9 % 2**63
    return mixed


def tell_warmup(section: str, warmup_steps: int, steps: int, context: TrainContext) -> None:
    """Says once that a warm-up is shorter than is set, for want of steps."""
    fitted = fitted_warmup(warmup_steps, steps)
    if fitted != warmup_steps and context.rank == 0:
        logger.info("`%s.warmup_steps` of %d leaves none of %d steps at the full rate, so it is %d", section, warmup_steps, steps, fitted)


def tell_other_place(step: int, meta: Mapping[str, Any], context: TrainContext) -> None:
    """Says once that a training goes on with other threads or workers than its checkpoint notes, whose sums round otherwise."""
    now = {"threads": context.threads, "workers": context.world_size}
    then = {"threads": meta.get("threads", context.threads), "workers": meta.get("world_size", context.world_size)}
    other = [f"{name} {now[name]} in place of {then[name]}" for name in now if now[name] != then[name]]
    if other and context.rank == 0:
        logger.info("it goes on from step %d with %s: its results are equal up to rounding, not bit for bit", step, " and ".join(other))


class SkippedSteps:
    """Counts the steps that were left out for their gradient, not finite or far out of range, and gives up after too many on end.

    Args:
        section: of the settings, whose learning rate the way out names.
        context: of a worker, which then asks the others for their clips, and tells `context.quarantine` whose fault it is.
        above: a gradient so many times as long as they were lately is far out of range; None: none is.
    """

    def __init__(self, section: str, context: TrainContext | None = None, above: float | None = None) -> None:
        self.section, self.context, self.above = section, context, above
        self.count = 0
        self._on_end = 0
        self._faulty: dict[str, None] = {}  # clips of the steps on end
        self.norms = RunningNorm()

    def is_whole(
        self, step: int, norm: float, losses: Tensor | None = None, clip_ids: Sequence[str] = (), clips: int | None = None
    ) -> bool:
        """Tells whether a step may be taken; one that may not is named in a warning, with its clips.

        The context is told of them, unless the step has far fewer clips than is usual and its gradient is finite: then it is too little
        to go by. Clips whose own loss is not finite while the others' are accused at once, others when a step was taken after it.

        Args:
            step: counted from 0.
            norm: of the whole gradient, the same for all workers.
            losses: (B,), of each clip, so that the bad ones are named alone.
            clips: of the step, over all workers; None: there are no more than `clip_ids` names.

        Raises:
            UnstableTrainingError: it is the last of too many on end.
        """
        count = clips or max(1, len(clip_ids))
        wrong = self._wrong_with(norm, count)
        if wrong is None:
            if self._on_end and self.context is not None:
                self.context.quarantine(step + 1, None, ())  # the weights are sound, so the clips were not
            self._on_end, self._faulty = 0, {}
            self.norms.add(norm, count)
            return True
        self.count, self._on_end = self.count + 1, self._on_end + 1
        told = list(zip(clip_ids, losses.tolist() if losses is not None else [0.0] * len(clip_ids), strict=True))
        if self.context is not None:
            told = [(name, loss) for share in told_by_all(told, self.context) for name, loss in share]
        sure = faulty(told)
        guilty = sure or blamed(told)
        self._faulty |= dict.fromkeys(sure)
        if self.context is None or self.context.rank == 0:
            named = f"; clips: {_listed(guilty)}" if guilty else ""
            logger.warning("step %d is skipped, its gradient is %s%s", step + 1, wrong, named)
        if self.context is not None and guilty and not (math.isfinite(norm) and self.norms.is_few(count)):
            self.context.quarantine(step + 1, "its loss is not finite" if sure else f"its gradient is {wrong}", guilty, bool(sure))
        if self._on_end >= MAX_SKIPPED_ON_END:
            raise UnstableTrainingError(self._gives_up(step, norm))
        return False

    def _gives_up(self, step: int, norm: float) -> str:
        had = "no finite gradient" if not math.isfinite(norm) else "a gradient far out of range"
        said, hint = f"{self._on_end} steps on end up to {step + 1} had {had}", f"a lower `{self.section}.learning_rate`"
        if self._faulty:
            said = f"{said}, and clips whose own loss is not finite: {_listed(list(self._faulty))}"
            hint = f"another `{self.section}.seed` or {hint} begins without them"
        return f"{said}; hint: {hint}"

    def state(self) -> Tensor:
        """Answers all that the next steps depend on, for a checkpoint."""
        return torch.cat([torch.tensor([self.count, self._on_end], dtype=torch.float64), self.norms.state()])

    def restore(self, state: Tensor) -> None:
        self.count, self._on_end = (int(number) for number in state[:2].tolist())
        self.norms.restore(state[2:])

    def _wrong_with(self, norm: float, clips: int) -> str | None:
        if not math.isfinite(norm):
            return "not finite"
        norm, usual = norm * self.norms.scale(clips), self.norms.mean if self.above is not None and self.norms.is_known else 0.0
        return f"{norm / usual:.0f} times the usual" if usual and norm > (self.above or 0.0) * usual else None


def faulty(told: Sequence[tuple[str, float]]) -> list[str]:
    """Answers the clips whose own loss is not finite, where at least as many losses are: with bad weights most would not be.

    Args:
        told: clips and their losses.
    """
    found = [name for name, loss in told if not math.isfinite(loss)]
    return list(dict.fromkeys(found)) if 2 * len(found) <= len(told) else []


def blamed(told: Sequence[tuple[str, float]]) -> list[str]:
    """Answers the clips of a bad step whose own loss is out of line: not finite, or far above the middle one; all where none is.

    Args:
        told: clips and their losses.
    """
    finite = [loss for _, loss in told if math.isfinite(loss)]
    most = OUT_OF_LINE * median_low(finite) if finite else math.inf
    apart = [name for name, loss in told if not loss <= most]
    return list(dict.fromkeys(apart or [name for name, _ in told]))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - CLIPS_NAMED} more" if len(names) > CLIPS_NAMED else ""
    return ", ".join(names[:CLIPS_NAMED]) + more
