"""The transformer's training and its loading on a real GPU, where there is one; torch alone, so neither Ray nor a store."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from components.models.dit import DiT, load_dit
from components.models.precision import mixed_precision
from components.models.weights import save_folder
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics
from components.train.dit_loop import train_dit
from tests.train.test_dit_loop import EMPTY, FPS, LATENTS, MASK, SIZE, TEXT, batches, new_model, settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
STEPS = 12


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone, as a worker of Ray Train on a GPU has it."""
    torch.distributed.init_process_group("cuda:nccl,cpu:gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def trained(folder: Path, sharded: bool = False, **changes: object) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Answers the averaged weights of a training on the GPU, and its losses."""
    folder.mkdir(exist_ok=True)
    context = replace(TrainContext.local(folder, "cuda:0"), sharded=sharded)
    chosen = settings(report_every=1, **changes)
    model = train_dit(chosen, new_model(), batches(repeat=8), EMPTY, Checkpoints(folder), context)
    losses = [metrics["loss"] for _, metrics in read_metrics(folder / "metrics.jsonl")]
    return {name: value.cpu() for name, value in model.state_dict().items()}, losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_spread_over_gpus_take_the_steps_of_whole_ones(optimizer: str, tmp_path: Path, group: None) -> None:
    expected, of_whole = trained(tmp_path / "whole", optimizer=optimizer)
    found, of_shards = trained(tmp_path / "shards", sharded=True, optimizer=optimizer)
    torch.testing.assert_close(of_shards, of_whole, rtol=1e-2, atol=1e-2)
    assert not torch.equal(expected["patch_in.weight"], new_model().patch_in.weight)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-2, atol=2e-3, msg=name)


def test_what_shards_saved_goes_on_as_a_whole(tmp_path: Path, group: None) -> None:
    expected, _ = trained(tmp_path / "whole")
    trained(tmp_path / "both", sharded=True, steps=STEPS - 4)
    found, losses = trained(tmp_path / "both", steps=STEPS)
    assert len(losses) == STEPS
    assert found.keys() == expected.keys()
    assert Checkpoints(tmp_path / "both").newest()[0] == STEPS  # type: ignore[index]


def test_compiled_blocks_learn_as_eager_ones(tmp_path: Path) -> None:
    _, eager = trained(tmp_path / "eager")
    _, compiled = trained(tmp_path / "compiled", compile=True)
    torch.testing.assert_close(compiled, eager, rtol=5e-2, atol=5e-2)


def test_a_loaded_model_answers_as_the_float32_one_in_half_the_memory(tmp_path: Path) -> None:
    model = new_model()
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    notes = {"size": asdict(SIZE), "latent_channels": 4, "text_width": 8}
    save_folder(tmp_path / "model", {"dit": model.state_dict()}, {"dit": notes})
    loaded, _ = load_dit(tmp_path / "model", "cuda:0")
    model = model.to("cuda:0").eval().requires_grad_(False)
    said = [part.to("cuda:0") for part in (LATENTS, torch.rand(4), TEXT, MASK, FPS)]
    with torch.inference_mode(), mixed_precision("cuda:0"):
        assert torch.equal(loaded(*said), model(*said))
    assert held(loaded) < 0.6 * held(model)


def test_a_gpu_answers_and_learns_as_a_cpu(tmp_path: Path) -> None:
    found = []
    for device in ("cpu", "cuda:0"):
        model = new_model()
        torch.manual_seed(1)
        for layer in (model.modulation, model.modulation_out, model.patch_out):
            torch.nn.init.normal_(layer.weight, std=0.1)
        model = model.to(device)
        t, mask = torch.tensor([0.2, 0.4, 0.6, 0.8]), MASK.clone()
        mask[1, 2:] = False
        velocity = model(*(part.to(device) for part in (LATENTS, t, TEXT, mask, FPS)))
        velocity.square().mean().backward()
        gradients = {name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None}
        found.append({"velocity": velocity.detach().cpu(), **gradients})
    assert len(found[0]) > 20
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)


def held(model: DiT) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
