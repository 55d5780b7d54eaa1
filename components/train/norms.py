"""What the norms of gradients were lately, and how long a gradient may be by that. Needs torch alone.

The noise of a gradient falls with the square root of the clips that it is the mean over. So a norm of a step that has fewer clips
than is usual is brought to that number before it is compared or kept. One of more clips is left as it is: what all clips agree on does
not get less with more of them.
"""

import math

import torch
from torch import Tensor

DECAY = 0.99
WARM_UP = 100  # norms before anything is judged by them
DEVIATIONS = 3.0
FEW = 0.25  # of the usual clips of a step: with less than this share of them it is far smaller than others


class RunningNorm:
    """Mean and variance of norms, of which recent ones weigh most; the first ones all weigh alike.

    Attributes:
        clips: the mean number of clips that the steps had; 0: nothing is known of it.
    """

    mean: float
    variance: float
    count: int
    clips: float

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self.forget()

    def add(self, norm: float, clips: int = 1) -> None:
        """Takes in the norm of a step of so many clips over all workers."""
        weight = max(1.0 - self.decay, 1.0 / (self.count + 1))
        apart = norm * self.scale(clips) - self.mean
        self.mean += weight * apart
        self.variance = (1.0 - weight) * (self.variance + weight * apart**2)
        self.count += 1
        self.clips = self.clips + weight * (clips - self.clips) if self.clips else float(clips)

    def scale(self, clips: int) -> float:
        """Answers what brings the norm of a step of so many clips to one of the usual number, 1 for a step of as many or more."""
        return min(1.0, math.sqrt(clips / self.clips)) if self.clips else 1.0

    def is_few(self, clips: int) -> bool:
        """Tells whether a step of so many clips is far smaller than usual."""
        return clips < FEW * self.clips

    def forget(self) -> None:
        """Begins anew, where gradients become those of something else."""
        self.mean, self.variance, self.count, self.clips = 0.0, 0.0, 0, 0.0

    @property
    def is_known(self) -> bool:
        """Whether there were enough to judge another by."""
        return self.count >= WARM_UP

    def state(self) -> Tensor:
        """Answers all that it knows, for a checkpoint."""
        return torch.tensor([self.mean, self.variance, self.count, self.clips], dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Puts back what `state` answered; an earlier version's does not tell of clips, which are known with the next step."""
        self.mean, self.variance, count, *clips = state.tolist()
        self.count, self.clips = int(count), clips[0] if clips else 0.0


class AdaptiveClip:
    """How long a gradient may be: so much, and where it adapts no more than three deviations above the mean of late.

    A gradient that is longer than that teaches it nothing, so a row of bad ones does not make room for more.

    Source: Open-Sora Plan v1.5, adaptive gradient clipping.
    """

    def __init__(self, max_norm: float, adapts: bool) -> None:
        self.max_norm, self.adapts = max_norm, adapts
        self.norms = RunningNorm()

    def ceiling(self, clips: int = 1) -> float:
        """Answers how long the gradient of a step of so many clips over all workers may be."""
        return min(self.max_norm, self._usual / self.norms.scale(clips))

    def add(self, norm: float, clips: int = 1) -> None:
        """Takes in the norm of a step that was taken, as it was before it was clipped."""
        if norm * self.norms.scale(clips) <= self._usual:
            self.norms.add(norm, clips)

    @property
    def _usual(self) -> float:
        if not self.adapts or not self.norms.is_known:
            return math.inf
        return self.norms.mean + DEVIATIONS * math.sqrt(self.norms.variance)
