"""The diffusion transformer's training as Ray Train calls it: reads cached latents, trains, exports a folder that generates alone."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.models.dit import DiT
from components.models.lora import adapters_of, merged_state
from components.models.weights import EMPTY_PROMPT, digest_folder, load_json, load_tensors, save_folder
from components.openclip.embed import encode_text
from components.openclip.load import load_coca
from components.sections import Config
from components.store.choice import evenly
from components.store.filters import READY
from components.store.project import Project
from components.store.tables import clips
from components.train.buckets import Filling
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, fitted_steps
from components.train.context_parallel import as_group
from components.train.dit_batches import Encoded, dit_batches, places_of_a_step, read_encoded, read_held_out
from components.train.dit_finetune import begin_from, config_from, notes_from
from components.train.dit_loop import train_dit
from components.train.dit_samples import Sampling
from components.train.dit_validation import HeldOut
from components.train.travel import travels

logger = logging.getLogger("kinora")

SAMPLED_PROMPTS = 4
HELD_OUT_CLIPS = 32


@travels
def run(payload: Mapping[str, Any], context: TrainContext, checkpoints: Checkpoints) -> None:
    """Trains the diffusion transformer and exports it with its VAE and text encoder.

    Args:
        payload: `config`, the resolved settings; `root`, `project`, `clips_version`, `clips_lifted`; `checkpoints`, `export`, folders;
            `video_vae` and `text_encoder`, the folders of what made the latents and the text embeddings; `style`, how captions
            are worded, as `components.caption.upsample.build_style` describes it; `base`, the folder of a model to train further, if any.
    """
    base = Path(payload["base"]) if payload.get("base") else None
    config = Config.model_validate(payload["config"] if base is None else config_from(base, payload["config"]))
    pinned = payload["clips_version"], tuple(payload["clips_lifted"])
    project = Project(Path(payload["root"]), payload["project"], config.cluster.storage, *pinned)
    encoded = read_encoded(project)
    most = config.clip.as_most(_shapes(project))
    config = config.model_copy(update={"clip": most})  # what it makes where nothing else is asked for
    parts = {"video-vae": Path(payload["video_vae"]), "text-encoder": Path(payload["text_encoder"])}
    notes = notes_of(config, encoded, parts)
    if base is not None:
        notes = notes_from(base, notes, config.dit.lora_rank)
    exported = Exported(notes, payload["style"], parts)
    model, sampling = build(config, exported, base), None
    if context.beside is not None:
        folder, draft = Path(payload["checkpoints"]) / "samples", replace(exported, parts={})
        captions = _some_captions(project) if config.dit.sample_every else []
        weights = sum(value.numel() for value in model.parameters())
        sampling = Sampling(folder, draft.write, notes, parts, captions, context.beside, weights)
    try:
        average = train(config, encoded, exported, checkpoints, context, sampling, model, read_held_out(project, HELD_OUT_CLIPS))
    finally:
        if sampling is not None:
            sampling.close()
    if context.rank == 0:
        exported.write(Path(payload["export"]), average)


@dataclass(frozen=True)
class Exported:
    """What is written beside the weights.

    Attributes:
        notes: how to build the model, what it must meet again, and how to sample.
        style: how the training captions are worded.
        parts: the folders of the VAE and the text encoder, by their names in the exported one.
    """

    notes: dict[str, Any]
    style: dict[str, Any]
    parts: dict[str, Path]

    def write(self, folder: Path, model: nn.Module) -> str:
        """Writes a folder that generates by itself, whole or not at all, and answers its digest; adapters are added in, and beside it."""
        adapters = adapters_of(model)
        tensors = {"dit": merged_state(model)} | ({"adapters": adapters} if adapters else {})
        return save_folder(folder, tensors, {"dit": self.notes, "style": self.style}, folders=self.parts)


def train(
    config: Config,
    encoded: Encoded,
    exported: Exported,
    checkpoints: Checkpoints,
    context: TrainContext,
    on_sample: Sampling | None = None,
    model: nn.Module | None = None,
    held_out: Sequence[HeldOut] = (),
) -> nn.Module:
    """Trains a model, or else the one of the settings built from its seed, on encoded clips, and answers the average of its weights."""
    settings, notes = config.dit, exported.notes
    if settings.tokens_per_batch is None:
        steps = fitted_steps(settings.steps, settings.max_epochs, settings.batch_size, len(encoded.clip_ids))
        settings = settings.model_copy(update={"steps": steps})
    place = as_group(context, settings.context_parallel)
    filling = Filling(settings.batch_size, settings.tokens_per_batch, settings.packing, place.world_size)
    batches, steps_an_epoch = dit_batches(encoded, filling, settings.size.patch_size, settings.seed, place.rank)
    model = model or build(config, exported)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    logger.info("the diffusion transformer has %.1f million parameters; an epoch is %d steps", millions, steps_an_epoch)
    empty_prompt = _empty_prompt(exported.parts["text-encoder"])
    shift_places = notes["contract"]["shift_places"]
    step_places = places_of_a_step(encoded, filling, settings.size.patch_size)
    return train_dit(
        settings, model, batches, empty_prompt, checkpoints, context, on_sample, shift_places, held_out, step_places, encoded.is_stored
    )


def build(config: Config, exported: Exported, base: Path | None = None) -> DiT:
    """Builds the model of the settings, from its seed, or reads the one that is trained further."""
    torch.manual_seed(config.dit.seed)
    if base is None:
        model = DiT(config.dit.size, exported.notes["latent_channels"], exported.notes["text_width"])
    else:
        model = begin_from(base, config.dit.lora_rank)
    model.recompute = config.dit.recompute_activations
    return model


def _empty_prompt(text_encoder: Path) -> Tensor:
    """Answers what the text encoder makes of the empty prompt, (S, C), rounded as the table's embeddings are."""
    if (text_encoder / f"{EMPTY_PROMPT}.safetensors").is_file():  # of one that is another library's
        return load_tensors(text_encoder, EMPTY_PROMPT)["text_embeds"].half().float()
    embeds, mask = encode_text(load_coca(text_encoder), [""])
    return embeds[0][mask[0]].half().float().clone()


def _usual_rate(encoded: Encoded) -> float:
    """Answers the latent frames a second that most clips have, of those with more than one."""
    moving = [rate for rate, shape in zip(encoded.latents_fps, encoded.each_shape, strict=True) if shape[1] > 1]
    return Counter(moving or encoded.latents_fps).most_common(1)[0][0]


def notes_of(config: Config, encoded: Encoded, parts: Mapping[str, Path]) -> dict[str, Any]:
    """Answers what is kept beside the weights: how to build the model, what it must meet again, and how to sample."""
    vae = load_json(parts["video-vae"], "vae")
    text_width = int(encoded.text_embeds[0].shape[1])
    return {
        "format": "kinora-text-to-video",
        "size": {**vars(config.dit.size), "patch_size": list(config.dit.size.patch_size)},
        "latent_channels": encoded.each_shape[0][0],
        "text_width": text_width,
        "clip": {name: getattr(config.clip, name) for name in ("num_frames", "height", "width", "fps")},
        "latents_shapes": _seen_shapes(config, encoded),
        "generate": config.generate.model_dump(mode="json"),
        "training": config.dit.model_dump(mode="json"),
        "contract": {
            "shift_places": max(math.prod(shape[1:]) for shape in encoded.shapes),
            "latents_fps": _usual_rate(encoded),
            "empty_prompt": _empty_prompt(parts["text-encoder"]).tolist(),
            "latents_mean": vae["latents_mean"],
            "latents_std": vae["latents_std"],
            "text_width": text_width,
            "video_vae": digest_folder(parts["video-vae"]),
            "text_encoder": digest_folder(parts["text-encoder"]),
        },
    }


def _seen_shapes(config: Config, encoded: Encoded) -> list[list[int]]:
    """Answers the shapes of latents that training shows, the clips' own first: (C, T, H, W), and (C, 1, H, W) of clips seen as images."""
    shapes = list(encoded.shapes)
    images = [(channels, 1, *size) for channels, _, *size in shapes] if config.dit.image_share else []
    return [list(shape) for shape in dict.fromkeys([*shapes, *images])]


def _shapes(project: Project) -> Iterator[tuple[int, int, int]]:
    """Answers the frames, height and width of each clip; its rows go with it, they would be much to hold while a model trains."""
    return ((row["num_frames"], row["height"], row["width"]) for row in clips(project).read(["num_frames", "height", "width"], READY))


def _some_captions(project: Project) -> list[str]:
    """Answers a few captions of the training clips, far apart in the order of clip ids."""
    rows = clips(project).read(["caption"], f"{READY} AND caption IS NOT NULL")
    return evenly(list(dict.fromkeys(row["caption"] for row in rows)), SAMPLED_PROMPTS)
