"""What the steps of every training share: their seed, their precision, and what becomes of one without a finite gradient."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

logger = logging.getLogger("kinora")

MAX_SKIPPED_ON_END = 20
CLIPS_NAMED = 4  # of a bad step, in its warning


class UnstableTrainingError(ValueError):
    """The gradient was not finite for many steps on end; the message says at which step and what to try."""


def seed_of(seed: int, step: int) -> int:
    """Mixes two whole numbers into the seed of one step; neighbours are far apart."""
    mixed = 0
    for value in (seed, step, 0):
        mixed = (mixed ^ (value + 0x9E3779B97F4A7C15 + (mixed << 6) + (mixed >> 2))) * 0xBF58476D1CE4E5B9 % 2**63
    return mixed


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Answers the context of a forward pass: bfloat16 on a GPU, float32 as it is on a CPU, where bfloat16 is slower."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


class SkippedSteps:
    """Counts the steps that were left out because their gradient was not finite, and gives up after too many on end.

    Args:
        section: of the settings, whose learning rate the way out names.
    """

    def __init__(self, section: str) -> None:
        self.section = section
        self.count = 0
        self._on_end = 0

    def is_whole(self, step: int, norm: float, losses: Tensor | None = None, clip_ids: Sequence[str] = ()) -> bool:
        """Tells whether a step may be taken; one that may not is named in a warning, with its clips.

        Args:
            step: counted from 0.
            norm: of the whole gradient.
            losses: (B,), of each clip, so that the bad ones are named alone.

        Raises:
            UnstableTrainingError: it is the last of too many on end.
        """
        if math.isfinite(norm):
            self._on_end = 0
            return True
        self.count, self._on_end = self.count + 1, self._on_end + 1
        named = f"; clips: {_blamed(losses, clip_ids)}" if clip_ids else ""
        logger.warning("step %d is skipped, its gradient is not finite%s", step + 1, named)
        if self._on_end >= MAX_SKIPPED_ON_END:
            raise UnstableTrainingError(
                f"{self._on_end} steps on end up to {step + 1} had no finite gradient; hint: a lower `{self.section}.learning_rate`"
            )
        return False


def _blamed(losses: Tensor | None, clip_ids: Sequence[str]) -> str:
    """Names the clips whose loss is not finite, or those of the whole batch where each by itself is."""
    told = losses.tolist() if losses is not None else [0.0] * len(clip_ids)
    named = [name for name, loss in zip(clip_ids, told, strict=True) if not math.isfinite(loss)] or list(clip_ids)
    more = f" and {len(named) - CLIPS_NAMED} more" if len(named) > CLIPS_NAMED else ""
    return ", ".join(named[:CLIPS_NAMED]) + more
