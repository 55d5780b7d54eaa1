"""What the norms of gradients were lately, and how long a gradient may be by that. Needs torch alone."""

import math

import torch
from torch import Tensor

DECAY = 0.99
WARM_UP = 100  # norms before anything is judged by them
DEVIATIONS = 3.0


class RunningNorm:
    """Mean and variance of norms, of which recent ones weigh most; the first ones all weigh alike."""

    mean: float
    variance: float
    count: int

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self.forget()

    def add(self, norm: float) -> None:
        weight = max(1.0 - self.decay, 1.0 / (self.count + 1))
        apart = norm - self.mean
        self.mean += weight * apart
        self.variance = (1.0 - weight) * (self.variance + weight * apart**2)
        self.count += 1

    def forget(self) -> None:
        """Begins anew, where gradients become those of something else."""
        self.mean, self.variance, self.count = 0.0, 0.0, 0

    @property
    def is_known(self) -> bool:
        """Whether there were enough to judge another by."""
        return self.count >= WARM_UP

    def state(self) -> Tensor:
        """Answers all that it knows, for a checkpoint."""
        return torch.tensor([self.mean, self.variance, self.count], dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        self.mean, self.variance, count = state.tolist()
        self.count = int(count)


class AdaptiveClip:
    """How long a gradient may be: so much, and where it adapts no more than three deviations above the mean of late.

    A gradient that is longer than that teaches it nothing, so a row of bad ones does not make room for more.

    Source: Open-Sora Plan v1.5, adaptive gradient clipping.
    """

    def __init__(self, max_norm: float, adapts: bool) -> None:
        self.max_norm, self.adapts = max_norm, adapts
        self.norms = RunningNorm()

    @property
    def ceiling(self) -> float:
        return min(self.max_norm, self._usual)

    def add(self, norm: float) -> None:
        """Takes in the norm of a step that was taken, as it was before it was clipped."""
        if norm <= self._usual:
            self.norms.add(norm)

    @property
    def _usual(self) -> float:
        if not self.adapts or not self.norms.is_known:
            return math.inf
        return self.norms.mean + DEVIATIONS * math.sqrt(self.norms.variance)
