"""The steps of a rehearsal, on made-up clips: a process of its own that prints a line of JSON after each and keeps nothing."""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.models.dit import DiT
from components.models.lora import adapt
from components.sections import Dit
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.dit_draws import DitBatch
from components.train.dit_loop import train_dit
from components.train.dit_rehearsal import Spec

STATUS = Path("/proc/self/status")


class _Enough(Exception):
    """The time is over."""


class _NoCheckpoints(Checkpoints):
    """Finds none and keeps none."""

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
        return self.folder

    def newest(self) -> None:
        return None


def rehearse(spec: Spec) -> None:
    """Takes the steps; prints after each the seconds it took, the most memory up to then and what was held before the model, in bytes."""
    torch.set_num_threads(spec.threads)
    beside = _most_bytes(spec.device)
    settings = Dit.model_validate({**spec.settings, "steps": spec.steps, "report_every": 1})
    torch.manual_seed(0)
    model = DiT(settings.size, spec.latents[0], spec.text[1])
    if settings.lora_rank is not None:
        adapt(model, settings.lora_rank)
    model.recompute = settings.recompute_activations
    began = last = time.monotonic()

    def report(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal began, last
        now = time.monotonic()
        print(json.dumps({"seconds": now - last, "num_bytes": _most_bytes(spec.device), "beside": beside}), flush=True)
        last = now
        if step == 1:  # which imports and allocates
            began = now
        elif now - began > spec.seconds:
            raise _Enough

    context = TrainContext(0, 1, spec.device, spec.threads, report, lambda wrapped: wrapped)
    empty_prompt = torch.zeros(1, spec.text[1])
    try:
        train_dit(settings, model, lambda first: _batches(spec, first, settings.packing), empty_prompt, _NoCheckpoints(Path()), context)
    except _Enough:
        return


def _batches(spec: Spec, first: int, packed: bool) -> Iterator[DitBatch]:
    generator = torch.Generator().manual_seed(first)
    latents = torch.randn((spec.clips, *spec.latents), generator=generator)
    texts, mask = torch.randn((spec.clips, *spec.text), generator=generator), torch.ones(spec.clips, spec.text[0], dtype=torch.bool)
    names = tuple(f"clip {number}" for number in range(spec.clips))
    while True:
        yield DitBatch(tuple(latents) if packed else latents, texts, mask, names, torch.full((spec.clips,), 4.0))


def _most_bytes(device: str) -> int:
    """Answers the most memory that was held: of the GPU with its context, else of this process.

    Linux's own count is read where there is one: `ru_maxrss` of a process begins at what the one that started it held.
    """
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return torch.cuda.max_memory_reserved() + max(0, total - free - torch.cuda.memory_reserved())
    if STATUS.is_file():
        most = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(most.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    rehearse(Spec(**told))
