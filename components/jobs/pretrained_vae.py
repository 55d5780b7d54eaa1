"""A pretrained video VAE as Ray Train takes it: as it is, or trained further by the loop of our own; its folder needs no hub any more."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from components.encode.licences import check_may_change, licence_of
from components.encode.pretrained_vae import PretrainedVae
from components.encode.pretrained_weights import save_pretrained_vae, take
from components.sections import Config, Vae
from components.store.project import Project
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.travel import travels
from components.train.vae_batches import Shape
from components.train.vae_job import Beginning, make


@travels
def run(payload: Mapping[str, Any], context: TrainContext, checkpoints: Checkpoints) -> None:
    """Takes a pretrained video VAE, trains it further where `vae.finetune` says so, measures and exports it.

    Args:
        payload: as of our own VAE, and `source`, an id of the hub or a folder.
    """
    make(payload, context, checkpoints, partial(begin, payload["source"], context.device))


def begin(source: str, device: str, config: Config, project: Project, shapes: dict[Shape, list[str]]) -> Beginning:
    """Reads a pretrained VAE, and looks whether it may be trained further and can encode the clips.

    Raises:
        LicenceError: its licence has conditions or is unknown, it is to be trained, and nobody checked that.
        PretrainedVaeError: it cannot be had.
        ValueError: the clips, or the crops of a training, do not fit; the nearest that do are named.
    """
    settings = config.vae
    if settings.finetune:
        check_may_change(source, settings.licence_checked)
    vae = take(source)
    for shape in shapes:
        try:
            vae.check(torch.empty(()).expand(1, 3, *shape))
        except ValueError as error:
            asked = (
                "`clip.num_frames`, `clip.height` and `clip.width`"
                if config.clip.max_shapes == 1
                else "`clip.frames_multiple` and `clip.side_multiple`"
            )
            raise ValueError(f"clips do not fit `{source}`: {error}; hint: {asked}") from error
    if settings.finetune:
        _check_crops(vae, settings)
    vae.to(device).requires_grad_(settings.finetune)
    notes = {"origin": {"name": Path(source).name if Path(source).is_dir() else source, "licence": licence_of(source)}}
    return Beginning(vae, "pretrained", save_pretrained_vae, notes, settings.finetune, settings.finetune or not vae.normalised)


def _check_crops(vae: PretrainedVae, settings: Vae) -> None:
    for name in ("crop_size", "min_crop_size"):
        value = getattr(settings, name)
        if value is not None and value % vae.side:
            nearest = max(vae.side, round(value / vae.side) * vae.side)
            raise ValueError(f"`vae.{name}` must be a multiple of {vae.side} for this VAE, not {value}; the nearest is {nearest}")
