"""Parameters, gradients, averages and optimiser states spread over all workers (FSDP2), where one worker's memory is too small for them.

The loops stay as they are: elementwise work is done on shards, Muon makes whole matrices of its gradients, and a checkpoint holds whole
tensors, so that it is gone on with by any number of workers, sharded or not. Needs torch alone.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from components.train.context import TrainContext
from components.train.shares import told_by_all

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Average(Generic[Model]):
    """The running average of a model's weights, of which each worker keeps what it keeps of the model.

    Attributes:
        parts: a module with as much of it; weights that do not learn are the model's own where that is whole.
        plain: what is shared out has its whole weights put into a copy of this one, which has none.
        writes: this worker is the one that gathers them.
    """

    parts: Model
    plain: Model | None = None
    writes: bool = True

    def whole(self, device: str = "cpu") -> Model:
        """Answers a module with all of it; workers that keep a part call this at the same moment.

        Args:
            device: for what is gathered, on the worker that writes; the others have a module without weights.
        """
        if self.plain is None:
            return self.parts
        state = gathered_whole(self.parts.state_dict(), self.writes)
        if not self.writes:
            return self.plain
        gathered = copy.deepcopy(self.plain)
        gathered.load_state_dict(state, assign=True)
        return gathered.to(device)

    def snapshot(self) -> Model:
        """Answers as `whole` does, in the CPU's memory, what later steps leave as it is."""
        return self.whole() if self.plain is not None else copied(self.parts, lambda value: value.detach().to("cpu", copy=True))


def spread(
    model: Model, block: type[nn.Module], context: TrainContext, averaged: Mapping[str, Tensor] | None = None, method: str = "forward"
) -> tuple[nn.Module, Average[Model]]:
    """Brings a model from the CPU's memory to its workers, and answers what to call in the forward pass, and the average of its weights.

    Sharded, no more than one of its blocks is ever whole on a device. Its parameters are others than before, so an optimiser is made
    afterwards; what it has beside its blocks is one more shard.

    Args:
        block: the model's parts of this class are gathered one after the other.
        averaged: weights and buffers of the average, by name, without those that do not learn; none: it begins as the model.
        method: that a block is called by.
    """
    if context.sharded:
        plain, parts = _without_weights(model), _without_weights(model)
        for module in (model, parts):
            shard(module, block, context, method)
        parts.to_empty(device=context.device)
        average = Average(parts, plain, context.rank == 0)
        _fill([*parts.parameters(), *parts.buffers()], [*model.parameters(), *model.buffers()])
    else:
        average = Average(copied(model.to(context.device), _learning_apart))
    if averaged:
        learns = {name: value for name, value in average.parts.state_dict().items() if name not in frozen(model)}
        _fill(list(learns.values()), [part_like(averaged[name], value) for name, value in learns.items()])
    return model if context.sharded else context.wrap(model), average


def shard(model: nn.Module, block: type[nn.Module], context: TrainContext, method: str = "forward") -> None:
    """Leaves each worker its part of a model's parameters, on its device: block by block, then what is left."""
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


def copied(model: Model, make: Callable[[Tensor], Tensor]) -> Model:
    """Answers a copy of a module, which does not learn, with what `make` answers of each parameter and buffer in its place."""
    with torch.no_grad():
        made: dict[int, Any] = {id(buffer): make(buffer) for buffer in model.buffers()}
        made |= {id(parameter): nn.Parameter(make(parameter), requires_grad=False) for parameter in model.parameters()}
    return copy.deepcopy(model, made)


def frozen(model: nn.Module) -> set[str]:
    """Answers the names of the parameters that do not learn."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """Answers a tensor with the parts of all workers, who call it at the same moment; one that is whole stays as it is."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered_whole(tensors: Mapping[str, Tensor], kept: bool = True) -> dict[str, Tensor]:
    """Answers tensors with the parts of all workers, who call it at the same moment; those that are whole stay as they are.

    They are gathered one after the other, into the CPU's memory, so a device never holds two.

    Args:
        kept: False: this worker only lends its parts, and is answered nothing.
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        gathered = whole(value)
        if kept:
            found[name] = gathered.cpu() if is_shard(value) else value
    return found


def is_wanted(wanted: bool, context: TrainContext) -> bool:
    """Answers whether rank 0 wants what all workers gather; where they keep parts they ask at the same moment."""
    return bool(told_by_all(wanted, context)[0]) if context.sharded else wanted


def is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def part_like(value: Tensor, reference: Any) -> Tensor:
    """Answers this worker's part of a whole tensor, as a reference is shared out; all of it where the reference is whole."""
    if not is_shard(reference):
        return value
    from torch.distributed.tensor import distribute_tensor

    on_device = value.to(reference.device)
    return distribute_tensor(on_device, reference.device_mesh, reference.placements, src_data_rank=None)


def _without_weights(model: Model) -> Model:
    """Answers a copy of a module that has buffers and shapes of parameters, and no memory for those."""
    return copied(model, lambda value: torch.empty_like(value, device="meta") if isinstance(value, nn.Parameter) else value.clone())


def _learning_apart(value: Tensor) -> Tensor:
    return value.detach() if isinstance(value, nn.Parameter) and not value.requires_grad else value.detach().clone()


@torch.no_grad()
def _fill(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
