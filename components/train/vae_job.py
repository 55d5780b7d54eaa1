"""The video VAE's training as Ray Train calls it: begins with principal components, trains, measures and exports its folder."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from components.train.vae_batches import Shape, held_out, sample_of, training_clips, vae_batches
from components.train.vae_loop import ClipBatch, fit_normalisation, measure_psnr, train_vae

logger = logging.getLogger("kinora")

MEASURED_CLIPS = 96
NORMALISED_BY_CLIPS = 256
SHOWN_CLIPS = 6
PCA = "pca"  # what our own begins with


@travels
def run(payload: Mapping[str, Any], context: TrainContext, checkpoints: Checkpoints) -> None:
    """Trains the video VAE and exports it; `make` says what is in the payload."""
    make(payload, context, checkpoints, _from_principal_components)


@dataclass(frozen=True)
class Beginning:
    """A video VAE before its first step here.

    Attributes:
        model: what `VideoVae` is, or something with its ways.
        what: it begins with, for its figures: `val_WHAT_psnr`.
        save: writes it to a folder, with JSON values beside it.
        notes: such values: where it came from.
        trains: whether it learns here; if not, it is measured as it is.
        fits: whether the normalisation of its latents is taken from clips.
    """

    model: Any
    what: str
    save: Callable[[Path, Any, Mapping[str, Any]], str]
    notes: Mapping[str, Any]
    trains: bool = True
    fits: bool = True


def make(
    payload: Mapping[str, Any],
    context: TrainContext,
    checkpoints: Checkpoints,
    begin: Callable[[Config, Project, dict[Shape, list[str]]], Beginning],
) -> None:
    """Begins a video VAE, trains it unless it is to stay as it is, measures and exports it.

    Args:
        payload: `config`, the resolved settings; `root`, `project`, `clips_version`, `clips_lifted`; `checkpoints`, `export`, folders;
            `sheet`, the picture of reconstructions, which is of footage and so no part of what is exported.
        begin: is given the settings, the project, and the ids of its training clips by their shape.
    """
    config = Config.model_validate(payload["config"])
    settings, pinned = config.vae, (payload["clips_version"], tuple(payload["clips_lifted"]))
    project = Project(Path(payload["root"]), payload["project"], config.cluster.storage, *pinned)
    perceptual = _perceptual(settings, context.device)
    shapes = training_clips(project)
    measured = held_out(project, MEASURED_CLIPS) if context.rank == 0 else []
    torch.manual_seed(settings.seed)
    begun = begin(config, project, shapes)
    model, before = begun.model, measure_psnr(begun.model, measured)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    logger.info("the video VAE has %.2f million parameters and begins with %.2f dB (%s)", millions, before, begun.what)
    average = model
    if begun.trains:
        batches = vae_batches(project, shapes, settings.batch_size, settings.seed, context.rank, context.world_size)
        shown = _Shown(Path(payload["checkpoints"]) / "samples", _some_clips(measured), config.clip.fps) if measured else None
        average = train_vae(settings, model, batches, checkpoints, context, perceptual, shown)
    if context.rank != 0:
        return
    if begun.fits:
        fit_normalisation(average, sample_of(project, shapes, NORMALISED_BY_CLIPS))
    figures = _figures(begun, before, measure_psnr(average, measured) if begun.trains else before)
    if figures:
        context.report(settings.steps + 1 if begun.trains else 1, figures)
    clip = config.clip.as_most(shape for shape, ids in shapes.items() for _ in ids)
    meta = {
        "format": "kinora-video-vae",
        "clip": {name: getattr(clip, name) for name in ("num_frames", "height", "width", "fps")},
        **begun.notes,
    }
    if begun.trains:  # what stays as it is has one digest, whatever it is measured by
        meta |= {"training": config.vae.model_dump(mode="json"), "measured": figures}
    if measured:
        Path(payload["sheet"]).parent.mkdir(parents=True, exist_ok=True)
        write_sheet(Path(payload["sheet"]), _in_turn(_pairs(average, _some_clips(measured))))
    begun.save(Path(payload["export"]), average, meta)


def _from_principal_components(config: Config, project: Project, shapes: dict[Shape, list[str]]) -> Beginning:
    """Builds our own VAE, whose linear maps are the principal components of patches and whose nets add nothing yet."""
    model = VideoVae(config.vae.size)
    for shape in shapes:
        model.check(torch.empty(()).expand(1, 3, *shape))
    sample = sample_of(project, shapes, config.vae.linear_start_clips)
    model.start_linear(torch.cat([batch.frames for batch in sample]).permute(0, 4, 1, 2, 3))
    return Beginning(model, PCA, save_vae, {})


def _figures(begun: Beginning, before: float, reached: float) -> dict[str, float]:
    """Answers what was measured; without a validation split that is nothing."""
    figures = {"val_psnr": reached}
    if begun.trains:
        figures[f"val_{begun.what}_psnr"] = before
    if begun.what == PCA:
        figures["val_psnr_gain"] = reached - before
    return {name: value for name, value in figures.items() if math.isfinite(value)}


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
