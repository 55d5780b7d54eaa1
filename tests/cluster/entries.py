"""Trainings that the tests of components/cluster hand to Ray Train by name."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from components.cluster.ahead import HOOK
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, optimizer_tensors
from components.train.context import TrainContext


def train(payload: dict[str, Any], context: TrainContext) -> None:
    """A tiny exact training that resumes, and dies where it is told to."""
    assert torch.get_num_threads() == context.threads
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    checkpoints = Checkpoints(Path(payload["folder"]) / "checkpoints")
    step = 0
    found = checkpoints.newest()
    if found:
        step, tensors, _ = found
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)
    wrapped = context.wrap(model)
    marks = Path(payload["folder"])
    with (marks / "starts").open("a") as handle:
        handle.write(f"{context.rank}/{context.world_size} {os.getpid()} from {step}\n")
    (marks / "prestarted").write_text(" ".join(map(str, started_ahead())))
    (marks / "faults").write_text(str(page_faults_of_freed_memory()))
    while step < payload["steps"]:
        step += 1
        generator = torch.Generator().manual_seed(step * 1000 + context.rank)
        loss = wrapped(torch.randn(8, 6, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(payload.get("sleep", 0.0))
        if step == payload.get("raise_at") and context.rank == payload.get("raise_rank", 0):
            raise {"value": ValueError, "disk": lambda text: OSError(28, "No space left on device", "/full/disk"), "other": KeyError}[
                payload["raises"]
            ]("`vae.steps` is wrong")
        if step == payload.get("kill_at") and not (marks / "killed").exists():
            (marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == payload.get("always_kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        context.report(step, {"loss": loss.item()})
        if context.rank == 0 and (step % 5 == 0 or step == payload["steps"]):
            checkpoints.save(step, model.state_dict() | optimizer_tensors(optimizer, dict(model.named_parameters())), {})


def page_faults_of_freed_memory() -> int:
    """Counts the pages that the kernel has to hand out when 256 MiB, 65536 pages, are used once more, as by a step after others."""
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [torch.ones(1 << 20) for _ in range(64)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def started_ahead() -> list[int]:
    """The processes on this machine that were started for a training of this Ray, by the hook in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            if HOOK in variables and variables.get("RAY_AUTH_TOKEN_PATH") == os.environ.get("RAY_AUTH_TOKEN_PATH"):
                found.append(process.pid)
    return found


def train_transformer(payload: dict[str, Any], context: TrainContext) -> None:
    """The diffusion transformer's own loop on made-up latents; its worker dies once where it is told to."""
    from components.config import load_config
    from components.models.dit import DiT
    from components.models.sizes import DitSize
    from components.train.dit_draws import DitBatch
    from components.train.dit_loop import train_dit

    folder = Path(payload["folder"])
    with (folder / "starts").open("a") as handle:
        handle.write(f"{context.device}\n")
    settings = load_config(overrides=["dit.steps=12", "dit.checkpoint_every=4", "dit.report_every=1", "dit.warmup_steps=2"]).dit

    def batches(first: int) -> Iterator[DitBatch]:
        for step in range(first, settings.steps):
            if step == payload.get("kill_at") and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            generator = torch.Generator().manual_seed(step)
            latents, text = torch.randn(4, 16, 3, 8, 8, generator=generator), torch.randn(4, 6, 32, generator=generator)
            yield DitBatch(latents, text, torch.ones(4, 6, dtype=torch.bool), ("a", "b", "c", "d"), torch.full((4,), 2.0))

    torch.manual_seed(0)
    model = DiT(DitSize(hidden_size=128, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=64), 16, 32)
    model.recompute = True
    train_dit(settings, model, batches, torch.zeros(2, 32), Checkpoints(folder / "checkpoints"), context)


def train_shared(payload: dict[str, Any], context: TrainContext) -> None:
    """The diffusion transformer's own loop and batches; it waits at two steps until the test has changed the cluster."""
    from components.models.dit import DiT
    from components.models.sizes import DitSize
    from components.train.buckets import Filling
    from components.train.dit_batches import Encoded, dit_batches
    from components.train.dit_draws import DitBatch
    from components.train.dit_loop import train_dit
    from tests.train.test_dit_loop import settings

    folder = Path(payload["folder"])
    with (folder / "starts").open("a") as handle:
        handle.write(f"{context.rank}/{context.world_size}\n")
    random = np.random.default_rng(0)
    latents = [random.normal(size=(4, 2, 4, 4)).astype(np.float16) for _ in range(9)]
    encoded = Encoded(
        tuple(f"clip{row}" for row in range(9)), latents, [random.normal(size=(3, 8)).astype(np.float16) for _ in range(9)], [2.0] * 9
    )
    shares, _ = dit_batches(encoded, Filling(5, world_size=context.world_size), (1, 2, 2), 0, context.rank)

    def batches(first: int) -> Iterator[DitBatch]:
        for step, batch in enumerate(shares(first), start=first):
            for moment, workers, sign in payload.get("waits", ()):
                while step == moment and context.world_size == workers and not (folder / sign).exists():
                    time.sleep(0.05)
            time.sleep(payload.get("sleep", 0.0))
            yield batch

    torch.manual_seed(0)
    model = DiT(DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32), latent_channels=4, text_width=8)
    chosen = settings(steps=payload["steps"], report_every=1, checkpoint_every=4)
    train_dit(chosen, model, batches, torch.zeros(2, 8), Checkpoints(folder / "checkpoints"), context)
