"""A model meets the rate that it was trained at, however either was rounded, and no other."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from components.generate.contract import TEXT_ENCODER, VIDEO_VAE, MismatchedModelError, check_contract
from components.models.weights import EMPTY_PROMPT, digest_folder, save_folder
from components.train.dit_batches import _latents_fps

RATES = [1, 5, 6, 7, 8, 10, 12, 15, 16, 20, 23, 24, 25, 30, 48, 50, 60]
RATIOS = range(1, 10)
GROUPS = [1, 2, 3, 4, 5, 7, 11, 20, 30, 61]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A text-to-video folder with a VAE and a text encoder that keeps its empty prompt."""
    save_folder(tmp_path / VIDEO_VAE, {}, {"vae": {}})
    save_folder(tmp_path / TEXT_ENCODER, {EMPTY_PROMPT: {"text_embeds": torch.ones(1, 4)}}, {})
    return tmp_path


def check(parts: Path, fps: int, ratio: int, latents_fps: float, latent_frames: int = 3) -> None:
    statistics = torch.tensor([0.1, 1 / 3])
    contract = {
        "latents_mean": statistics.tolist(),
        "latents_std": statistics.tolist(),
        "latents_fps": latents_fps,
        "shift_places": 16 * latent_frames,
        "text_width": 4,
        "empty_prompt": [[1.0] * 4],
        "video_vae": digest_folder(parts / VIDEO_VAE),
        "text_encoder": digest_folder(parts / TEXT_ENCODER),
    }
    notes = {"contract": contract, "clip": {"fps": fps}, "latents_shapes": [[4, latent_frames, 4, 4]]}
    vae = cast(Any, SimpleNamespace(latents_mean=statistics, latents_std=statistics, frames=ratio))
    check_contract(notes, vae, cast(Any, SimpleNamespace(width=4)), parts)


def test_a_model_is_loaded_whatever_the_rate_the_ratio_and_the_length_of_its_clips(parts: Path) -> None:
    for fps, ratio, groups in itertools.product(RATES, RATIOS, GROUPS):
        found = _latents_fps(str(fps), 1 + ratio * groups, 1 + groups)
        assert found == fps / ratio, "clips of all lengths have one rate"
        earlier = float(fps) * (groups / (ratio * groups))  # as a model from before may have noted it
        for noted in {found, earlier}:
            check(parts, fps, ratio, noted)


@pytest.mark.parametrize(("fps", "ratio", "noted"), [(30, 4, 30000 / 1001 / 4), (10, 3, 10 / 4), (24, 1, 25.0), (10, 3, float("nan"))])
def test_another_rate_is_refused_by_name(parts: Path, fps: int, ratio: int, noted: float) -> None:
    with pytest.raises(MismatchedModelError, match="`latents_fps` is not what the diffusion transformer was trained with; hint"):
        check(parts, fps, ratio, noted)


def test_images_alone_say_nothing_of_a_rate(parts: Path) -> None:
    check(parts, 10, 3, 24.0, latent_frames=1)
