"""One step on several cores of one process: each thread takes its share of the batch through the whole model.

Small matrix products gain little from many threads each, and lose where cores are shared: measured on two cores, a step of two
shards takes about half the time of one whose products are split.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from components.train.context import TrainContext


class Shards:
    """Splits batches among threads and adds up their gradients, always in the same order, so that a step repeats bit for bit.

    Args:
        count: of threads; with 1 a step is a plain backward pass in the calling thread, which DDP and GPUs need.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None
        if count > 1:
            torch.set_num_threads(1)

    def backward(self, losses_of: Callable[[slice], Tensor], size: int, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Leaves the gradients of the mean loss in the parameters, which must have none yet.

        Args:
            losses_of: answers the losses (n,) of a part of the batch.
            size: of the batch.

        Returns:
            the losses of the whole batch, (B,), without their graph.
        """
        if self._pool is None:
            losses = losses_of(slice(0, size))
            losses.mean().backward()
            return losses.detach()
        trained = [parameter for parameter in parameters if parameter.requires_grad]

        def part(bounds: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
            losses = losses_of(slice(*bounds))
            return losses.detach(), torch.autograd.grad(losses.sum() / size, trained)

        found = list(self._pool.map(part, self._bounds(size)))
        total = list(found[0][1])
        for _, gradients in found[1:]:
            torch._foreach_add_(total, gradients)
        for parameter, gradient in zip(trained, total, strict=True):
            parameter.grad = gradient
        return torch.cat([losses for losses, _ in found])

    def _bounds(self, size: int) -> list[tuple[int, int]]:
        """Answers where the parts of a batch begin and end; none is empty."""
        ends = [size * (i + 1) // self.count for i in range(self.count)]
        return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the threads and gives torch its own back."""
        if self._pool is not None:
            self._pool.shutdown()
            torch.set_num_threads(self._threads_before)


def shards_for(context: TrainContext) -> Shards:
    """Answers one shard a thread for a lone worker on a CPU, else one."""
    return Shards(context.threads if context.device == "cpu" and context.world_size == 1 else 1)
