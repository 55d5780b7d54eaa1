"""Parameters, gradients, averages and optimiser states spread over all workers (FSDP2), where one worker's memory is too small for them.

The loops stay as they are: elementwise work is done on shards, Muon makes whole matrices of its gradients, and a checkpoint holds whole
tensors, so that it is gone on with by any number of workers, sharded or not. Needs torch alone.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from components.train.context import TrainContext

Model = TypeVar("Model", bound=nn.Module)


def spread(model: nn.Module, block: type[nn.Module], context: TrainContext, method: str = "forward") -> nn.Module:
    """Prepares a model for its workers, and answers what to call in the forward pass.

    Sharded, the model's parameters are others than before, so an optimiser is made afterwards; what it has beside its blocks is one
    more shard.

    Args:
        block: the model's parts of this class are gathered one after the other.
        method: that a block is called by.
    """
    if not context.sharded:
        return context.wrap(model)
    shard(model, block, context, method)
    return model


class Average(Generic[Model]):
    """The running average of a model's weights, of which each worker keeps what it keeps of the model.

    Attributes:
        parts: a module with as much of it.
    """

    def __init__(self, average: Model, block: type[nn.Module], context: TrainContext) -> None:
        self.parts = average
        self._device = context.device if context.rank == 0 else "cpu"
        self._plain = copy.deepcopy(average).cpu() if context.sharded else None
        if context.sharded:
            shard(average, block, context)

    def whole(self) -> Model:
        """Answers a module with all of it; workers that keep a part call this at the same moment."""
        if self._plain is None:
            return self.parts
        self._plain.load_state_dict(whole_state(self.parts))
        return copy.deepcopy(self._plain).to(self._device)


def shard(model: nn.Module, block: type[nn.Module], context: TrainContext, method: str = "forward") -> None:
    """Leaves each worker its part of a model's parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing here changes an output in place
    model.to(memory_format=torch.contiguous_format)  # all that FSDP2 takes
    mesh = init_device_mesh(torch.device(context.device).type, (context.world_size,))
    for part in [module for module in model.modules() if isinstance(module, block)]:
        fully_shard(part, mesh=mesh)
        if method != "forward":
            register_fsdp_forward_method(part, method)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """Answers a tensor with the parts of all workers, who call it at the same moment; one that is whole stays as it is."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Answers a module's whole parameters and buffers by name; those that were gathered lie in the CPU's memory."""
    return {name: whole(value).cpu() if is_shard(value) else value for name, value in module.state_dict().items()}


def is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def part_like(value: Tensor, reference: Any) -> Tensor:
    """Answers this worker's part of a whole tensor, as a reference is shared out; all of it where the reference is whole."""
    if not is_shard(reference):
        return value
    from torch.distributed.tensor import distribute_tensor

    on_device = value.to(reference.device)
    return distribute_tensor(on_device, reference.device_mesh, reference.placements, src_data_rank=None)
