"""The captioner's training as Ray Train calls it: reads labelled clips, trains or takes a CoCa, and exports its folder."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from components.openclip.decode import caption_pictures
from components.openclip.load import CaptionerError, Coca, build_coca, load_coca, save_coca
from components.openclip.mosaic import Mosaic, picture
from components.openclip.parts import part
from components.sections import Captioner, Config
from components.store.project import Project
from components.train.captioner_batches import Labelled, captioner_batches, channel_statistics, read_judged, read_labelled
from components.train.captioner_loop import train_captioner
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, fitted_steps
from components.train.travel import travels
from components.world.vocabulary import FIELDS, parse

logger = logging.getLogger("kinora")

JUDGED_CLIPS = 256
JUDGED_AT_ONCE = 64


@travels
def run(payload: Mapping[str, Any], context: TrainContext, checkpoints: Checkpoints) -> None:
    """Makes the captioner that a project needs and exports it to a folder.

    Args:
        payload: `config`, the resolved settings; `root`, `project`, `clips_version`, `clips_lifted`; `checkpoints`, `export`, folders;
            `mode`, as `components.caption.captioner.choose` answers it: train, pretrained or untrained.
    """
    config = Config.model_validate(payload["config"])
    settings = config.captioner
    pinned = payload["clips_version"], tuple(payload["clips_lifted"])
    project = Project(Path(payload["root"]), payload["project"], config.cluster.storage, *pinned)
    match payload["mode"]:
        case "train":
            coca = _trained(settings, project, checkpoints, context)
        case "pretrained":
            coca = _taken(settings)
        case "untrained":
            coca = _text_encoder_alone(settings, project)
        case other:
            raise ValueError(f"`{other}` is not a way to a captioner; there are train, pretrained and untrained")
    if context.rank == 0:
        save_coca(Path(payload["export"]), coca)


def _trained(settings: Captioner, project: Project, checkpoints: Checkpoints, context: TrainContext) -> Coca:
    mosaic = mosaic_of(settings)
    labelled = read_labelled(project, mosaic)
    if not labelled.captions:
        raise CaptionerError(
            "no clip of the training split lends a caption; hint: a manifest with captions, or `--set captioner.pretrained=NAME:TAG`"
        )
    mean, std = channel_statistics(labelled)
    coca = build_coca(settings.size, labelled.captions, mosaic_frames=settings.mosaic_frames, mean=mean, std=std, seed=settings.seed)
    judged = read_judged(project, mosaic, JUDGED_CLIPS)
    steps = fitted_steps(settings.steps, settings.max_epochs, settings.batch_size, len(labelled.captions))
    fitted = settings.model_copy(update={"steps": steps})
    loss = part("loss").CoCaLoss(settings.caption_loss_weight, settings.contrastive_loss_weight)
    batches = captioner_batches(labelled, coca, settings, context.rank, context.world_size)
    model = train_captioner(fitted, coca.model, loss, batches, checkpoints, context)
    measured = field_accuracy(replace(coca, model=model), judged) if context.rank == 0 else {}
    if measured:
        context.report(fitted.steps + 1, measured)
    return replace(coca, model=model, measured=measured)


def _taken(settings: Captioner) -> Coca:
    assert settings.pretrained is not None
    coca = load_coca(settings.pretrained)
    logger.info("the captioner is `%s`, as it is", settings.pretrained)
    return coca


def _text_encoder_alone(settings: Captioner, project: Project) -> Coca:
    """Builds a CoCa of random weights: its text tower tells captions apart, and that is all it is for."""
    captions = read_labelled(project, mosaic_of(settings)).captions
    logger.warning(
        "too few labelled clips to train a captioner (%d, `captioner.min_labelled` is %d): captions stay those that were given, "
        "and the text encoder keeps its random weights; hint: `--set captioner.pretrained=NAME:TAG`",
        len(captions),
        settings.min_labelled,
    )
    return build_coca(
        settings.size,
        captions,
        mosaic_frames=settings.mosaic_frames,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        seed=settings.seed,
        origin="untrained",
    )


def mosaic_of(settings: Captioner) -> Mosaic:
    """Answers the mosaic of a captioner's settings: a patch holds one tile of every frame."""
    return Mosaic(settings.mosaic_frames, settings.size.image_size, settings.size.patch_size // math.isqrt(settings.mosaic_frames))


def field_accuracy(coca: Coca, judged: Labelled) -> dict[str, float]:
    """Captions clips whose truth is known and answers the share that is right, by field and in all fields; empty without clips."""
    said: list[str] = []
    for start in range(0, len(judged.captions), JUDGED_AT_ONCE):
        pictures = picture(judged.cells[start : start + JUDGED_AT_ONCE], coca.mosaic, coca.mean, coca.std)
        device = next(coca.model.parameters()).device
        said += [caption for caption, _ in caption_pictures(coca, pictures.to(device))]
    known = [(parse(caption), truth) for caption, truth in zip(said, judged.truths, strict=True) if truth]
    if not known:
        return {}
    right = torch.tensor([[read[field] == truth[field] for field in FIELDS] for read, truth in known], dtype=torch.float64)
    return {**{f"val_{field}": float(right[:, i].mean()) for i, field in enumerate(FIELDS)}, "val_all_fields": float(right.prod(1).mean())}
