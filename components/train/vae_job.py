"""The video VAE's training as Ray Train calls it: starts from principal components, trains, measures and exports its folder."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.media.write import write_sheet, write_video
from components.models.perceptual import Perceptual, load_perceptual
from components.models.pixels import to_frames, to_pixels
from components.models.vae import VideoVae, save_vae
from components.sections import Config, Vae
from components.store.project import Project
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.travel import travels
from components.train.vae_batches import held_out, sample_of, training_clips, vae_batches
from components.train.vae_loop import ClipBatch, fit_normalisation, measure_psnr, train_vae

logger = logging.getLogger("kinora")

MEASURED_CLIPS = 96
NORMALISED_BY_CLIPS = 256
SHOWN_CLIPS = 6


@travels
def run(payload: Mapping[str, Any], context: TrainContext, checkpoints: Checkpoints) -> None:
    """Trains the video VAE and exports it.

    Args:
        payload: `config`, the resolved settings; `root`, `project` and `clips_version`; `checkpoints` and `export`, folders;
            `sheet`, the picture of reconstructions, which is of footage and so no part of what is exported.
    """
    config = Config.model_validate(payload["config"])
    settings, project = config.vae, Project(Path(payload["root"]), payload["project"], config.cluster.storage, payload["clips_version"])
    perceptual = _perceptual(settings, context.device)
    shapes = training_clips(project)
    measured = held_out(project, MEASURED_CLIPS) if context.rank == 0 else []
    torch.manual_seed(settings.seed)
    model = VideoVae(settings.size)
    for shape in shapes:
        model.check(torch.empty(()).expand(1, 3, *shape))
    model.start_linear(torch.cat([to_pixels(batch.frames) for batch in sample_of(project, shapes, settings.linear_start_clips)]))
    pca = measure_psnr(model, measured)  # all that the nets add is still nothing
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    logger.info("the video VAE has %.2f million parameters; its principal components alone reach %.2f dB", millions, pca)
    batches = vae_batches(project, shapes, settings.batch_size, settings.seed, context.rank, context.world_size)
    shown = _Shown(Path(payload["checkpoints"]) / "samples", _some_clips(measured), config.clip.fps) if measured else None
    average = train_vae(settings, model, batches, checkpoints, context, perceptual, shown)
    if context.rank != 0:
        return
    fit_normalisation(average, sample_of(project, shapes, NORMALISED_BY_CLIPS))
    reached = measure_psnr(average, measured)
    figures = {"val_psnr": reached, "val_pca_psnr": pca, "val_psnr_gain": reached - pca}
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}  # none without a validation split
    if figures:
        context.report(settings.steps + 1, figures)
    meta = {
        "format": "kinora-video-vae",
        "clip": {name: getattr(config.clip, name) for name in ("num_frames", "height", "width", "fps")},
        "training": config.vae.model_dump(mode="json"),
        "measured": figures,
    }
    if measured:
        Path(payload["sheet"]).parent.mkdir(parents=True, exist_ok=True)
        write_sheet(Path(payload["sheet"]), _in_turn(_pairs(average, _some_clips(measured))))
    save_vae(Path(payload["export"]), average, meta)


def _perceptual(settings: Vae, device: str) -> Perceptual | None:
    """Reads what compares looks, before anything else is read; None where that weighs nothing."""
    if not settings.perceptual_loss_weight or settings.perceptual_weights is None:
        return None
    return load_perceptual(settings.perceptual_weights).to(device)


class _Shown:
    """A picture and a video of some clips beside what the VAE makes of them, left in a folder after chosen steps."""

    def __init__(self, folder: Path, clips: Sequence[np.ndarray], fps: int) -> None:
        self.folder, self.clips, self.fps = folder, clips, fps

    def __call__(self, step: int, vae: VideoVae) -> None:
        """Leaves `step_N.png`, a clip and under it its reconstruction frame by frame, and `step_N.mp4`, both side by side."""
        pairs, name = _pairs(vae, self.clips), f"step_{step:06d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_sheet(self.folder / f"{name}.png", _in_turn(pairs))
        together = np.concatenate([np.concatenate(pair, axis=2) for pair in pairs], axis=1)  # (T, clips * H, 2 * W, 3)
        write_video(self.folder / f"{name}.mp4", together, self.fps)


def _some_clips(batches: Sequence[ClipBatch]) -> list[np.ndarray]:
    """Answers a few clips of one shape, each uint8 (T, H, W, 3)."""
    shape = batches[0].frames.shape[1:]
    clips = [clip.numpy() for batch in batches if batch.frames.shape[1:] == shape for clip in batch.frames]
    return clips[:SHOWN_CLIPS]


@torch.no_grad()
def _pairs(vae: VideoVae, clips: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Answers each clip and what the VAE makes of it, uint8 (T, H, W, 3)."""
    device = vae.latents_mean.device
    decoded = (vae.decode(vae.encode(to_pixels(torch.from_numpy(clip)[None].to(device)))) for clip in clips)  # (1, 3, T, H, W)
    return [(clip, to_frames(made)[0].cpu().numpy()) for clip, made in zip(clips, decoded, strict=True)]


def _in_turn(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [frames for pair in pairs for frames in pair]
