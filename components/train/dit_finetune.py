"""Where fine-tuning begins: a finished text-to-video folder, whose own VAE and text encoder made what it learns from."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.models.dit import DiT, load_dit
from components.models.lora import adapt, adapters_of
from components.models.weights import digest_folder, load_json

logger = logging.getLogger("kinora")


def config_from(base: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Answers settings, as JSON, whose transformer has the size of a base."""
    return {**config, "dit": {**config["dit"], "size": load_json(base, "dit")["size"]}}


def notes_from(base: Path, notes: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
    """Answers the notes of a model that begins from a base: what that is, and the sizes of clips that either has seen."""
    known = load_json(base, "dit")
    shapes = [*notes["latents_shapes"], *(shape for shape in known["latents_shapes"] if shape not in notes["latents_shapes"])]
    contract = {**notes["contract"], "shift_places": max(math.prod(shape[1:]) for shape in shapes)}
    clip = notes["clip"]
    if all(frames == 1 for _, frames, _, _ in notes["latents_shapes"]):  # images alone, which say nothing of a rate
        clip, contract["latents_fps"] = known["clip"], known["contract"]["latents_fps"]
    begun = {"weights": digest_folder(base), "lora_rank": rank}
    return {**notes, "clip": clip, "latents_shapes": shapes, "contract": contract, "base": begun}


def begin_from(base: Path, rank: int | None) -> DiT:
    """Loads a base to train it further, all of it, or adapters of a rank alone."""
    model, _ = load_dit(base)
    model.train().requires_grad_(True)
    if rank is not None:
        adapt(model, rank)
        learned = sum(value.numel() for value in adapters_of(model).values())
        logger.info("%.2f million weights of adapters learn, all others stay", learned / 1e6)
    return model
