"""A finished model that is trained further: all of it, or adapters alone, and what it may be trained on."""

from pathlib import Path

import pytest
import torch

from components.models.dit import DiT, load_dit
from components.models.weights import digest_folder, load_tensors, save_folder
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_starts
from components.train.dit_finetune import begin_from, config_from, notes_from
from components.train.dit_job import Exported
from components.train.dit_loop import train_dit
from tests.train.test_dit_loop import EMPTY, FPS, LATENTS, MASK, SIZE, TEXT, Killed, batches, dying, new_model, settings


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """What stands for a VAE and a text encoder."""
    for name in ("video-vae", "text-encoder"):
        save_folder(tmp_path / name, {"weights": {"weight": torch.ones(len(name))}}, {})
    return {name: tmp_path / name for name in ("video-vae", "text-encoder")}


@pytest.fixture
def notes(parts: dict[str, Path]) -> dict[str, object]:
    contract = {name.replace("-", "_"): digest_folder(folder) for name, folder in parts.items()}
    size = {**vars(SIZE), "patch_size": list(SIZE.patch_size)}
    contract |= {"shift_places": 32, "latents_fps": 2.0}
    clip = {"num_frames": 5, "height": 32, "width": 32, "fps": 8}
    return {"size": size, "latent_channels": 4, "text_width": 8, "clip": clip, "latents_shapes": [[4, 2, 4, 4]], "contract": contract}


@pytest.fixture
def base(parts: dict[str, Path], notes: dict[str, object], tmp_path: Path) -> Path:
    model = new_model()
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.02)
    Exported(notes, {}, parts).write(tmp_path / "base", model)
    return tmp_path / "base"


def velocity(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(LATENTS, torch.full((4,), 0.5), TEXT, MASK, FPS)
    return answer


def further(base: Path, folder: Path, rank: int | None, given=None, **changes: object) -> torch.nn.Module:
    torch.manual_seed(1)
    chosen = settings(**changes)
    return train_dit(chosen, begin_from(base, rank), given or batches(), EMPTY, Checkpoints(folder), TrainContext.local(folder))


def test_adapters_are_exported_in_the_weights_and_beside_them(
    base: Path, parts: dict[str, Path], notes: dict[str, object], tmp_path: Path
) -> None:
    trained = further(base, tmp_path / "a", 4)
    Exported(notes_from(base, notes, 4), {}, parts).write(tmp_path / "tuned", trained)
    tuned, told = load_dit(tmp_path / "tuned")
    assert told["base"] == {"weights": digest_folder(base), "lora_rank": 4}
    torch.testing.assert_close(velocity(tuned), velocity(trained), atol=1e-5, rtol=1e-5)
    before, after = load_dit(base)[0].state_dict(), tuned.state_dict()
    adapters = load_tensors(tmp_path / "tuned", "adapters")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name.replace(".down", ".weight") for name in adapters if name.endswith(".down")}
    for name in moved:
        layer = name.removesuffix(".weight")
        torch.testing.assert_close(after[name] - before[name], adapters[f"{layer}.up"] @ adapters[f"{layer}.down"], atol=1e-6, rtol=1e-4)


def test_what_either_has_seen_is_noted(base: Path, notes: dict[str, object]) -> None:
    longer = notes | {"latents_shapes": [[4, 3, 4, 4]], "clip": {**notes["clip"], "fps": 12}}
    found = notes_from(base, longer | {"contract": {**notes["contract"], "shift_places": 48, "latents_fps": 3.0}}, None)
    assert found["latents_shapes"] == [[4, 3, 4, 4], [4, 2, 4, 4]]
    assert (found["contract"]["shift_places"], found["contract"]["latents_fps"], found["clip"]["fps"]) == (48, 3.0, 12)
    images = longer | {"latents_shapes": [[4, 1, 4, 4]], "contract": {**notes["contract"], "shift_places": 16, "latents_fps": 12.0}}
    kept = notes_from(base, images, None)
    assert (kept["contract"]["shift_places"], kept["contract"]["latents_fps"], kept["clip"]) == (32, 2.0, notes["clip"])


def test_all_weights_learn_where_there_is_no_rank(base: Path, tmp_path: Path) -> None:
    before, after = load_dit(base)[0].state_dict(), further(base, tmp_path / "a", None).state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_a_killed_fine_tuning_goes_on_to_the_same_bits(base: Path, tmp_path: Path) -> None:
    whole = further(base, tmp_path / "whole", 4)
    with pytest.raises(Killed):
        further(base, tmp_path / "killed", 4, dying(batches()))
    resumed = further(base, tmp_path / "killed", 4)
    assert read_starts(tmp_path / "killed" / "metrics.jsonl")[-1].step == 4
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_model_that_is_trained_further_keeps_its_size(base: Path) -> None:
    found = config_from(base, {"dit": {"size": "demo", "steps": 3}, "clip": {}})
    assert found["dit"]["steps"] == 3
    assert found["dit"]["size"]["hidden_size"] == SIZE.hidden_size
    assert isinstance(begin_from(base, None), DiT)
