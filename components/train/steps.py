"""What the steps of every training share: their seed, and what becomes of one whose gradient is not to be followed."""

import logging
import math
from collections.abc import Sequence
from statistics import median_low

import torch
from torch import Tensor

from components.train.context import TrainContext
from components.train.norms import RunningNorm
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
        self.norms = RunningNorm()

    def is_whole(self, step: int, norm: float, losses: Tensor | None = None, clip_ids: Sequence[str] = ()) -> bool:
        """Tells whether a step may be taken; one that may not is named in a warning, with its clips.

        Args:
            step: counted from 0.
            norm: of the whole gradient, the same for all workers.
            losses: (B,), of each clip, so that the bad ones are named alone.

        Raises:
            UnstableTrainingError: it is the last of too many on end.
        """
        wrong = self._wrong_with(norm)
        if wrong is None:
            if self._on_end and self.context is not None:
                self.context.quarantine(step + 1, None, ())  # the weights are sound, so the clips were not
            self._on_end = 0
            self.norms.add(norm)
            return True
        self.count, self._on_end = self.count + 1, self._on_end + 1
        told = list(zip(clip_ids, losses.tolist() if losses is not None else [0.0] * len(clip_ids), strict=True))
        if self.context is not None:
            told = [(name, loss) for share in told_by_all(told, self.context) for name, loss in share]
        guilty = blamed(told)
        if self.context is None or self.context.rank == 0:
            named = f"; clips: {_listed(guilty)}" if guilty else ""
            logger.warning("step %d is skipped, its gradient is %s%s", step + 1, wrong, named)
        if self.context is not None and guilty:
            self.context.quarantine(step + 1, f"its gradient is {wrong}", guilty)
        if self._on_end >= MAX_SKIPPED_ON_END:
            had = "no finite gradient" if not math.isfinite(norm) else "a gradient far out of range"
            raise UnstableTrainingError(
                f"{self._on_end} steps on end up to {step + 1} had {had}; hint: a lower `{self.section}.learning_rate`"
            )
        return False

    def state(self) -> Tensor:
        """Answers all that the next steps depend on, for a checkpoint."""
        return torch.cat([torch.tensor([self.count, self._on_end], dtype=torch.float64), self.norms.state()])

    def restore(self, state: Tensor) -> None:
        self.count, self._on_end = (int(number) for number in state[:2].tolist())
        self.norms.restore(state[2:])

    def _wrong_with(self, norm: float) -> str | None:
        if not math.isfinite(norm):
            return "not finite"
        usual = self.norms.mean if self.above is not None and self.norms.is_known else 0.0
        return f"{norm / usual:.0f} times the usual" if usual and norm > (self.above or 0.0) * usual else None


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
