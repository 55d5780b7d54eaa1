"""Where clips of several sizes lie in one sequence of tokens: side by side, those of one size together as a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Clips of one size that lie side by side.

    Attributes:
        first_clip, clips: which of all clips they are.
        first_token: where they begin in the sequence.
        length: tokens of each.
    """

    first_clip: int
    clips: int
    first_token: int
    length: int

    def of_tokens(self, packed: Tensor) -> Tensor:
        """Answers the run's tokens, (N, ...) -> (clips, length, ...); nothing is copied."""
        return packed[self.first_token : self.first_token + self.clips * self.length].unflatten(0, (self.clips, self.length))

    def of_clips(self, each: Tensor) -> Tensor:
        """Answers the run's part of what there is one of a clip, (clips of all runs, ...) -> (clips, ...)."""
        return each[self.first_clip : self.first_clip + self.clips]


def parts_of(packed: Tensor, runs: Sequence[Run]) -> list[Tensor]:
    """Answers the tokens of each run, (N, ...) -> (clips, length, ...) each; the way back is one pass over all of them."""
    whole = packed.split([run.clips * run.length for run in runs]) if len(runs) > 1 else (packed,)
    return [part.unflatten(0, (run.clips, run.length)) for part, run in zip(whole, runs, strict=True)]


def runs_of_batches(clips: Sequence[int], lengths: Sequence[int]) -> list[Run]:
    """Answers the runs of batches, one behind the other, of so many clips of so many tokens each."""
    runs: list[Run] = []
    clip = token = 0
    for count, length in zip(clips, lengths, strict=True):
        runs.append(Run(clip, count, token, length))
        clip, token = clip + count, token + count * length
    return runs


def join(parts: Sequence[Tensor]) -> Tensor:
    """Puts what was made of each run, (clips, length, ...), back into one sequence, (N, ...)."""
    flat = [part.flatten(0, 1) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)
