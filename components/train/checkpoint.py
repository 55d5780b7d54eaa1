"""Exact checkpoints: one atomic folder a step, its manifest of digests written last; a torn one is passed over."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.models.weights import DamagedFolderError, load_json, load_tensors, new_folder, write_tensors
from components.train.context import TrainContext
from components.train.sharding import frozen, gathered_whole, part_like
from components.train.shares import told_by_all

logger = logging.getLogger("kinora")
STEP_FOLDER = re.compile(r"step_(\d{6,})")

Found = tuple[int, dict[str, Tensor], dict[str, Any]]


class DifferentStepsError(RuntimeError):
    """Workers found different checkpoints to go on from; the message says which. They may agree when they are started again."""


class Checkpoints:
    """The checkpoints of one training in one folder; the newest `keep` whole ones stay.

    Args:
        saved: called with the folder of each step that was saved; it returns at once.
        at_most: a step from beyond is passed over, so that all workers go on from the same one.
    """

    def __init__(self, folder: Path, keep: int = 2, saved: Callable[[Path], None] | None = None, at_most: int | None = None) -> None:
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, not {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.saved = saved
        self.at_most = at_most

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
        """Writes a step, whole or not at all, then lets go of older ones.

        Args:
            tensors: everything that the next step depends on, by name: weights, their average, the optimiser's states.
            meta: JSON values beside them: settings, threads.
        """
        place = self.folder / f"step_{step:06d}"
        with new_folder(place) as draft:
            write_tensors(draft / "tensors.safetensors", tensors)
            (draft / "meta.json").write_text(json.dumps({"step": step, "meta": dict(meta)}, indent=1, sort_keys=True))
        self._prune(step)
        if self.saved is not None:
            self.saved(place)
        return place

    def newest(self) -> Found | None:
        """Answers (step, tensors, meta) of the newest whole checkpoint, or None; damaged ones are named in a warning."""
        for step, place in reversed(self._steps()):
            if self.at_most is not None and step > self.at_most:
                continue
            try:
                noted = load_json(place, "meta")
                if noted["step"] != step:
                    raise DamagedFolderError(f"`{place}` says it is step {noted['step']}")
                return step, load_tensors(place, "tensors"), noted["meta"]
            except DamagedFolderError as error:
                logger.warning("checkpoint %s is not whole, the one before it is taken: %s", place.name, error)
        return None

    def _steps(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        named = ((STEP_FOLDER.fullmatch(place.name), place) for place in self.folder.iterdir())
        return sorted((int(match[1]), place) for match, place in named if match)

    def _prune(self, written: int) -> None:
        """Removes drafts that a kill left, damaged steps from beyond the one just written, and all but the newest `keep`."""
        steps = self._steps()
        kept = {step for step, _ in steps if step <= written}
        kept = set(sorted(kept)[-self.keep :])
        for step, place in steps:
            if step not in kept:
                shutil.rmtree(place, ignore_errors=True)
        for draft in self.folder.glob(".step_*"):
            shutil.rmtree(draft, ignore_errors=True)


def newest_of_all(checkpoints: Checkpoints, context: TrainContext) -> Found | None:
    """Answers the newest whole checkpoint, as all workers see it, who call this at the same moment.

    Raises:
        DifferentStepsError: they would go on from different steps.
    """
    found = checkpoints.newest()
    steps = told_by_all(0 if found is None else found[0], context)
    if len(set(steps)) > 1:
        told = ", ".join(f"worker {rank} from {step}" for rank, step in enumerate(steps))
        raise DifferentStepsError(
            f"workers would go on from different steps ({told}), so `{checkpoints.folder}` is not the same for all of them; "
            "hint: lay the project's root where every machine sees it, or set `cluster.storage`"
        )
    return found


def training_tensors(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, kept: bool = True) -> dict[str, Tensor]:
    """Answers weights, the average of those that learn and the optimiser's states by name, all of them whole.

    Workers that keep a part of it each call this at the same moment.

    Args:
        kept: as `gathered_whole` takes it.
    """
    stays = frozen(model)
    averaged = {f"average.{name}": value for name, value in average.state_dict().items() if name not in stays}
    state = gathered_whole({f"model.{name}": value for name, value in model.state_dict().items()} | averaged, kept)
    return state | optimizer_tensors(optimizer, dict(model.named_parameters()), kept=kept)


def weights_in(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Answers what `training_tensors` answered of `model.` or of `average.`, by the names that it has there."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], prefix: str = "optimizer.", kept: bool = True
) -> dict[str, Tensor]:
    """Answers an optimiser's whole state as tensors, numbers of it as 0-d float64 or int64 ones.

    Workers that keep a part of it each call this at the same moment.

    Args:
        names: the parameters by name, as `dict(model.named_parameters())`.
        prefix: keeps two optimisers apart in one checkpoint.
        kept: as `gathered_whole` takes it.
    """
    by_parameter = _by_parameter(optimizer, names)
    found: dict[str, Tensor] = {}
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[f"{prefix}group.{index}/{_kind(value)}/{key}"] = _number(value)
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{by_parameter[parameter]}/tensor/{key}"] = value.detach()
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[f"{prefix}{by_parameter[parameter]}/{_kind(value)}/{key}"] = _number(value)
            elif value is not None:
                raise TypeError(f"optimiser state `{key}` is a {type(value).__name__}; only tensors and numbers can be kept")
    return gathered_whole(found, kept)


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str = "optimizer."
) -> None:
    """Puts back what `optimizer_tensors` answered, bit for bit; other tensors of the checkpoint are passed over.

    Raises:
        ValueError: the checkpoint has states for a parameter that this optimiser does not have.
    """
    by_name = {name: parameter for parameter, name in _by_parameter(optimizer, names).items()}
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for full, value in tensors.items():
        if not full.startswith(prefix):
            continue
        owner, kind, key = full.removeprefix(prefix).rsplit("/", 2)
        if owner.startswith("group.") and owner not in by_name:
            optimizer.param_groups[int(owner.removeprefix("group."))][key] = value.item()
            continue
        if owner not in by_name:
            raise ValueError(
                f"the checkpoint has an optimiser state for `{owner}`, which is not trained here; hint: remove the checkpoint folder"
            )
        parameter = by_name[owner]
        restored = _like(value, parameter, groups[id(parameter)]) if kind == "tensor" else value.item()
        optimizer.state[parameter][key] = restored


def _by_parameter(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[Tensor, str]:
    named = {id(parameter): name for name, parameter in names.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in named for parameter in parameters):
        raise ValueError("the optimiser has a parameter without a name; hint: pass dict(model.named_parameters())")
    return {parameter: named[id(parameter)] for parameter in parameters}


def _like(value: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Copies a state to the parameter's device and memory layout; counters stay where torch keeps them."""
    if value.ndim == 0:
        on_device = group.get("fused") or group.get("capturable")
        return value.clone().to(parameter.device if on_device else "cpu")
    if value.shape == parameter.shape:
        value = part_like(value, parameter)
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.clone().to(parameter.device)


def _kind(value: int | float) -> str:
    return "int" if isinstance(value, int) else "float"


def _number(value: int | float) -> Tensor:
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
