"""The two video VAEs that `vae_quality` and `vae_speed` set side by side, and the real clips that both learn from.

Needs torch, diffusers, pydantic and PyYAML; decoding clips needs PyAV too.
"""

import copy
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.config import load_config
from components.models.pixels import to_pixels
from components.models.sizes import VaeSize
from components.models.vae import VideoVae
from components.train.optim import adamw_for, clip_gradients, linear_schedule, muon_for, set_learning_rate, update_ema
from components.train.steps import SkippedSteps, seed_of
from components.train.vae_loop import ADAMW
from components.train.vae_losses import psnr, vae_losses
from components.train.views import draw_view, seen

OURS = VaeSize(latent_channels=16, hidden_channels=384, num_blocks=4, encoder_channels=256, encoder_blocks=2)
WAN = {"base_dim": 32, "z_dim": 16}  # the rest as published, 4x8x8
FRAMES, SIDE = 17, 128
PERIOD, PATCH_SIDE = 4, 8
STORED_SIDE = 192  # of clips to learn from, out of which crops are cut
CLIPS_A_FILE = 8
FRAMES_READ = 600  # of a file, at most
FITTED_CLIPS = 64  # to which the linear start is fitted
HELD_OUT = ("aana-sdk__squirrel", "cogvideo__horse", "cups", "data-juicer", "dvr-scan", "gpmf-parser", "one-by-one", "wolf")
SCHEDULE_STEPS, WARMUP_STEPS = 1000, 20  # the learning rate goes by the share of the time that has passed


@dataclass(frozen=True)
class Recipe:
    """How one of the two is trained.

    Attributes:
        learning_rates: to be tried at the smallest budget; the best of them serves the larger ones.
        num_frames, crop_size: of what a step sees of each clip.
    """

    wan: bool
    optimizer: str
    learning_rates: tuple[float, ...]
    batch_size: int
    num_frames: int = FRAMES
    crop_size: int = 64
    linear_start: bool = False


RECIPES = {
    "ours": Recipe(False, "muon", (0.001, 0.003), 2, linear_start=True),
    # small crops suit Wan better: 143 steps in four minutes where 9 frames of 64x64 alone make 30, and more PSNR
    "wan": Recipe(True, "adamw", (0.0005, 0.001, 0.002), 4, num_frames=5, crop_size=32),
    "wan with muon": Recipe(True, "muon", (0.001, 0.003), 4, num_frames=5, crop_size=32),
    "ours without the linear start": Recipe(False, "muon", (0.001, 0.003), 2),
}


class Wan(nn.Module):
    """diffusers' `AutoencoderKLWan` with random weights, called as ours is."""

    def __init__(self) -> None:
        super().__init__()
        self.vae: Any = import_module("diffusers").AutoencoderKLWan(**WAN)
        for module in self.vae.modules():  # the way that it is fastest; its norms keep `to(memory_format=)` from doing it
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, clip: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(clip).latent_dist
        sampled = posterior.mean if noise is None else posterior.mean + noise * posterior.std
        return self.decode(sampled), posterior.mean, posterior.logvar

    def encode(self, clip: Tensor) -> Tensor:
        return self.vae.encode(clip).latent_dist.mean

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return (self.vae.z_dim, 1 + (num_frames - 1) // PERIOD, height // PATCH_SIDE, width // PATCH_SIDE)


def new_model(wan: bool) -> Any:
    return Wan() if wan else VideoVae(OURS).to(memory_format=torch.channels_last_3d)


def million_parameters(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def settings_of(crop_size: int) -> Any:
    """Answers the settings `vae` of the laptop, whose losses both are trained with, for crops of a size."""
    return load_config("laptop", [f"vae.crop_size={crop_size}"]).vae


@dataclass(frozen=True)
class Trained:
    """The average of the weights, and what it took."""

    model: Any
    steps: int
    seconds: float


def train(recipe: Recipe, learning_rate: float, clips: Sequence[Tensor], seconds: float, seed: int = 0) -> Trained:
    """Trains from scratch for so many seconds of each thread's CPU time, the linear start among them; the rate falls to zero as they pass.

    What else the machine does takes none of them.

    Args:
        clips: uint8 (T, H, W, 3), all of one shape.
    """
    settings, skipped = settings_of(recipe.crop_size), SkippedSteps("vae")
    torch.manual_seed(seed)
    model = new_model(recipe.wan).train()
    begin = last = _seconds_a_thread()
    if recipe.linear_start:
        fitted = torch.stack(list(clips[:: -(-len(clips) // FITTED_CLIPS)]))
        model.start_linear(fitted.permute(0, 4, 1, 2, 3)[..., :SIDE, :SIDE])
    average = copy.deepcopy(model).requires_grad_(False)
    muon = recipe.optimizer == "muon"
    optimizer = muon_for(model, learning_rate, adamw=ADAMW) if muon else adamw_for(model, learning_rate, settings.weight_decay)
    step, longest = 0, 0.0
    while (passed := _seconds_a_thread() - begin) + longest < seconds:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        set_learning_rate(optimizer, linear_schedule(int(SCHEDULE_STEPS * passed / seconds), SCHEDULE_STEPS, WARMUP_STEPS))
        batch = batch_of(clips, recipe, settings, generator)
        noise = torch.randn((len(batch), *model.latents_shape(*batch.shape[2:])), generator=generator)
        losses, _ = vae_losses(settings, batch, model(batch, noise))
        losses.mean().backward()
        if skipped.is_whole(step, clip_gradients(model.parameters(), settings.max_grad_norm)):
            optimizer.step()
            update_ema(average, model, settings.ema_decay, step)
        optimizer.zero_grad(set_to_none=True)
        now = _seconds_a_thread()
        step, longest, last = step + 1, now - last if step else 0.0, now
    return Trained(average.eval(), step, _seconds_a_thread() - begin)


def _seconds_a_thread() -> float:
    return time.process_time() / torch.get_num_threads()


def batch_of(clips: Sequence[Tensor], recipe: Recipe, settings: Any, generator: torch.Generator) -> Tensor:
    """Draws clips, a stretch of each and a crop, (B, 3, T, H, W)."""
    rows = torch.randint(len(clips), (recipe.batch_size,), generator=generator).tolist()
    firsts = torch.randint(len(clips[0]) - recipe.num_frames + 1, (recipe.batch_size,), generator=generator).tolist()
    batch = torch.stack([clips[row][first : first + recipe.num_frames] for row, first in zip(rows, firsts, strict=True)])
    return seen(batch, draw_view(settings, batch.shape[1:4], len(batch), PERIOD, PATCH_SIDE, generator))


@torch.no_grad()
def mean_psnr(model: Any, clips: Sequence[Tensor]) -> float:
    """Answers the mean over clips of the PSNR of what the latents' means decode to."""
    found = []
    for clip in clips:
        pixels = to_pixels(clip[None])
        found.append(float(psnr(model.decode(model.encode(pixels)), pixels)))
    return sum(found) / len(found)


def footage_folder() -> Path:
    """Answers KINORA_FOOTAGE, else the folder beside the checkout."""
    folder = Path(os.environ.get("KINORA_FOOTAGE") or Path(__file__).resolve().parents[2] / "shared" / "footage")
    if not (folder / "clips").is_dir():
        raise SystemExit(f"no real clips in `{folder}`; hint: KINORA_FOOTAGE names a folder that has `clips` in it")
    return folder


def real_clips(per_file: int = CLIPS_A_FILE, files: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Decodes clips to learn from, uint8 (17, 192, 192, 3), and clips of other files to measure on, uint8 (17, 128, 128, 3).

    Args:
        per_file: clips of each file, spread over it; of those to measure on three at most.
        files: of either kind at most.
    """
    paths = sorted(path for kind in ("clips", "multishot") for path in (footage_folder() / kind).iterdir())
    held_out = [path for path in paths if any(name in path.name for name in HELD_OUT)]
    others = [path for path in paths if path not in held_out]
    learned = [clip for path in others[:files] for clip in clips_of(path, per_file, STORED_SIDE)]
    return learned, [clip for path in held_out[:files] for clip in clips_of(path, min(3, per_file), SIDE)]


def clips_of(path: Path, count: int, side: int) -> Iterator[Tensor]:
    """Yields at most `count` clips of 17 frames from all over a file: the middle square, the short side shrunk to `STORED_SIDE`."""
    from components.media.read import cover, read_frames

    frames: list[np.ndarray] = []
    for frame in islice(read_frames(path), FRAMES_READ):
        height, width, _ = cover(frame.height, frame.width, STORED_SIDE, STORED_SIDE)
        y, x = (height - side) // 2, (width - side) // 2
        frames.append(frame.resized(height, width)[y : y + side, x : x + side])
    if len(frames) < FRAMES:
        return
    for start in np.unique(np.linspace(0, len(frames) - FRAMES, count).round().astype(int)):
        yield torch.from_numpy(np.stack(frames[start : start + FRAMES]))
