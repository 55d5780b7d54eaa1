"""The tokens of clips that are too long for one worker, shared out among the workers of a group.

Between attentions each worker has some tokens of every frame; for an attention they trade them for some heads of all tokens, and back.
What comes out is what one worker would make of it alone.

Source: Jacobs et al., DeepSpeed Ulysses (arXiv 2309.14509).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.models.packing import Run, runs_of_batches

Grid = tuple[int, int, int]

KEPT = 8  # layouts of tokens, of the shapes that batches have; 16 bytes a token


@dataclass(frozen=True)
class SequenceGroup:
    """The workers that share out one sequence, and which of them this one is.

    Attributes:
        group: of torch.distributed; None: all workers.
    """

    rank: int
    size: int
    group: Any = None

    def share(self, runs: Sequence[Run], grids: Sequence[Grid], device: torch.device) -> "Share":
        """Answers this worker's share of packed clips: of each frame as many places as the others, filled up where they do not divide.

        Args:
            runs: of all tokens.
            grids: tokens along time, height and width of the clips of each run.
        """
        lengths, taken, order = _dealt_out(tuple(runs), tuple(grids), self.size, device)
        return Share(self, list(runs), runs_of_batches([run.clips for run in runs], lengths), taken, order)


@dataclass(frozen=True)
class Share:
    """A worker's tokens of one pack, and the way to all of them and back.

    Attributes:
        whole: the runs of all N tokens.
        own: the runs of the worker's n tokens.
        taken: (workers, n), which of all tokens each worker has; what fills up a share is there as the first one.
        order: (N,), where each token is among all shares, one behind the other.
    """

    workers: SequenceGroup
    whole: list[Run]
    own: list[Run]
    taken: Tensor
    order: Tensor

    def of(self, tokens: Tensor) -> Tensor:
        """Answers the worker's part of all tokens, (N, ...) -> (n, ...)."""
        return tokens[self.taken[self.workers.rank]]

    def timesteps(self, t: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        """Answers the timesteps (clips, 1 or frames or L) of each run as the worker's tokens have them."""
        found = []
        for whole, own, times, (frames, _, _) in zip(self.whole, self.own, t, grids, strict=True):
            if times.shape[1] in (1, frames):
                found.append(times)
            else:
                mine = own.of_tokens(self.taken[self.workers.rank])[0] - whole.first_token  # (L of the worker,), the same in each clip
                found.append(times[:, mine.clamp(0, whole.length - 1)])
        return found

    def to_heads(self, tokens: Tensor) -> Tensor:
        """Trades some tokens of all heads for all tokens of some heads: (n, heads, d) -> (N, heads / workers, d)."""
        dealt = tokens.unflatten(1, (self.workers.size, -1)).transpose(0, 1)  # (workers, n, heads / workers, d)
        return _exchanged(dealt, self.workers).flatten(0, 1)[self.order]

    def to_tokens(self, heads: Tensor) -> Tensor:
        """Trades back: (N, heads / workers, d) -> (n, heads, d)."""
        return _exchanged(heads[self.taken], self.workers).transpose(0, 1).flatten(1, 2)

    def joined(self, tokens: Tensor) -> Tensor:
        """Answers the tokens of all workers, (n, ...) -> (N, ...), for a loss that each of them makes of all tokens.

        Each worker's gradients are then of its own tokens, times their number: the mean over workers is that of the whole.
        """
        together: Tensor = _Joined.apply(tokens, self.workers)
        return together.flatten(0, 1)[self.order]


@lru_cache(KEPT)
def _dealt_out(
    runs: tuple[Run, ...], grids: tuple[Grid, ...], workers: int, device: torch.device
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Answers how many tokens of each clip of a run a worker has, and `taken` and `order` of `Share`, on a device."""
    of_each = [_dealt(run, grid, workers) for run, grid in zip(runs, grids, strict=True)]  # (workers, clips * frames * places) each
    taken = torch.cat(of_each, dim=1)  # (workers, n), which of all tokens each worker has, -1 for nothing
    held = taken.flatten()
    order = torch.empty(int(held.max()) + 1, dtype=torch.int64)
    order[held[held >= 0]] = (held >= 0).nonzero().flatten()
    lengths = tuple(part.shape[1] // run.clips for run, part in zip(runs, of_each, strict=True))
    return lengths, taken.clamp(min=0).to(device, non_blocking=True), order.to(device, non_blocking=True)


def _dealt(run: Run, grid: Grid, workers: int) -> Tensor:
    """Answers which of all tokens each worker has of a run, (workers, clips * frames * places); -1 where there is none left."""
    frames, rows, columns = grid
    count = -(-rows * columns // workers)
    tokens = run.first_token + torch.arange(run.clips * run.length).view(run.clips, frames, rows * columns)
    padded = torch.nn.functional.pad(tokens, (0, count * workers - rows * columns), value=-1)
    return padded.unflatten(2, (workers, count)).movedim(2, 0).flatten(1)


def _exchanged(parts: Tensor, workers: SequenceGroup) -> Tensor:
    """Sends the i-th part to the i-th worker and answers what came from each: (workers, ...) -> (workers, ...)."""
    answer: Tensor = _Exchanged.apply(parts, workers)
    return answer


class _Exchanged(torch.autograd.Function):
    """A gradient goes back the way that its tensor came."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, workers: SequenceGroup) -> Tensor:
        ctx.workers = workers
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=workers.group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Exchanged.forward(ctx, gradients[0], ctx.workers), None


class _Joined(torch.autograd.Function):
    """All workers make the same loss of what they all have, so a worker's gradient of its own part needs nobody else's."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, workers: SequenceGroup) -> Tensor:
        ctx.workers = workers
        tokens = tokens.contiguous()
        parts = [torch.empty_like(tokens) for _ in range(workers.size)]
        dist.all_gather(parts, tokens, group=workers.group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.workers.rank] * ctx.workers.size, None
