"""One global batch shared among workers, so that a step depends on the batch and not on how many hold it. Needs torch alone."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from components.train.context import TrainContext


def share_of(rank: int, world_size: int) -> slice:
    """Answers which places of a global batch a worker holds; shares differ by one where the batch does not divide."""
    return slice(rank, None, world_size)


def check_shares(count: int, world_size: int, setting: str) -> None:
    """Refuses a batch that leaves a worker with nothing.

    Raises:
        ValueError: there are fewer clips in a batch than workers.
    """
    if count < world_size:
        raise ValueError(
            f"`{setting}` of {count} leaves some of {world_size} workers without a clip; hint: `--set {setting}={world_size}`, "
            "or fewer workers by `cluster.num_workers`"
        )


def weighed(mean: Tensor, here: int, whole: int, context: TrainContext) -> Tensor:
    """Answers the mean over a worker's share, weighed so that the plain mean over workers is that over the whole batch.

    DDP takes the plain mean of the workers' gradients, whatever the size of their shares.

    Args:
        here: how many this worker's mean is over.
        whole: how many there are over all workers.
    """
    return mean if context.world_size == 1 else mean * (here * context.world_size / whole)


def mean_over_workers(values: Mapping[str, float], context: TrainContext) -> dict[str, float]:
    """Answers the mean of each number over all workers, who call it at the same moment."""
    if context.world_size == 1:
        return dict(values)
    names = sorted(values)
    together = torch.tensor([values[name] for name in names], dtype=torch.float64, device=context.device)
    torch.distributed.all_reduce(together)
    return dict(zip(names, (together / context.world_size).tolist(), strict=True))


def told_by_all(value: Any, context: TrainContext) -> list[Any]:
    """Answers a JSON value of each worker, in the order of their ranks; all call it at the same moment."""
    if context.world_size == 1:
        return [value]
    said = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=context.device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=context.device) for _ in range(context.world_size)]
    torch.distributed.all_gather(lengths, torch.tensor([len(said)], dtype=torch.int64, device=context.device))
    padded = said.new_zeros(max(int(length) for length in lengths))
    padded[: len(said)] = said
    parts = [torch.empty_like(padded) for _ in lengths]
    torch.distributed.all_gather(parts, padded)
    return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(parts, lengths, strict=True)]


def gathered(share: Tensor, whole: int, context: TrainContext) -> Tensor:
    """Answers the rows of all workers, (whole, ...), in the order of the batch, for a loss that every worker makes of all rows."""
    rows: Tensor = _Gathered.apply(share, whole, context)
    return rows


class _Gathered(torch.autograd.Function):
    """Each worker's gradient of its own rows is the whole loss's; DDP's mean over workers makes too little of it, so it is scaled up."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, whole: int, context: TrainContext) -> Tensor:
        ctx.place = context
        most = -(-whole // context.world_size)
        padded = torch.cat([share, share.new_zeros(most - len(share), *share.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(context.world_size)]
        torch.distributed.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:whole]  # (most, workers, ...) -> (whole, ...)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        mine = gradients[0][share_of(ctx.place.rank, ctx.place.world_size)]
        return mine * ctx.place.world_size, None, None
