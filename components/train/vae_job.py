"""The video VAE's training as Ray Train calls it: starts from principal components, trains, measures and exports its folder."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.media.write import write_sheet
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
SHEET_ROWS = 6


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
    average = train_vae(settings, model, batches, checkpoints, context, perceptual)
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
        write_sheet(Path(payload["sheet"]), _beside(average, measured))
    save_vae(Path(payload["export"]), average, meta)


def _perceptual(settings: Vae, device: str) -> Perceptual | None:
    """Reads what compares looks, before anything else is read; None where that weighs nothing."""
    if not settings.perceptual_loss_weight or settings.perceptual_weights is None:
        return None
    return load_perceptual(settings.perceptual_weights).to(device)


@torch.no_grad()
def _beside(vae: VideoVae, batches: Sequence[ClipBatch]) -> list[np.ndarray]:
    """Answers clips and what the VAE makes of them, a row each, uint8 (T, H, W, 3)."""
    rows: list[np.ndarray] = []
    device = vae.latents_mean.device
    for frames in (clip for batch in batches for clip in batch.frames):
        if len(rows) == 2 * SHEET_ROWS:
            break
        decoded = vae.decode(vae.encode(to_pixels(frames[None].to(device))))  # (1, 3, T, H, W)
        rows += [frames.numpy(), to_frames(decoded)[0].cpu().numpy()]
    return rows
