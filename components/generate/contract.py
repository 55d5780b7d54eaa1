"""What a diffusion transformer was trained with, compared with what lies beside it when it is loaded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from components.models.weights import EMPTY_PROMPT, digest_folder

if TYPE_CHECKING:
    from components.encode.pretrained_vae import PretrainedVae
    from components.encode.text import TextEncoder
    from components.models.vae import VideoVae

VIDEO_VAE, TEXT_ENCODER = "video-vae", "text-encoder"
TERMS = ("latents_mean", "latents_std", "latents_fps", "shift_places", "text_width", "empty_prompt", "video_vae", "text_encoder")
LIKE = 0.01  # how far the embeddings of the empty prompt may be off, of their largest: machines round differently


class MismatchedModelError(ValueError):
    """Parts of a text-to-video folder that were not trained together; the message names the one that differs."""


def check_terms(notes: Mapping[str, Any], folder: Path) -> None:
    """Looks whether a model says all that it was trained with; one from before some of that was noted is not guessed at.

    Raises:
        MismatchedModelError: a term is missing.
    """
    missing = [term for term in TERMS if term not in (notes.get("contract") or {})]
    if missing:
        raise MismatchedModelError(
            f"`{folder}` was exported before models noted {', '.join(f'`{term}`' for term in missing)}; hint: `kinora run` trains it anew"
        )


def check_contract(notes: Mapping[str, Any], vae: "VideoVae | PretrainedVae", text_encoder: "TextEncoder", folder: Path) -> None:
    """Compares what the transformer was trained on with what lies beside it.

    Raises:
        MismatchedModelError: something of it is another.
    """
    contract = notes["contract"]
    moving = any(frames > 1 for _, frames, _, _ in notes["latents_shapes"])
    rate = notes["clip"]["fps"] / vae.frames
    met = not moving or math.isclose(contract["latents_fps"], rate)  # which training may have rounded otherwise
    found = {
        "latents_mean": vae.latents_mean.tolist(),
        "latents_std": vae.latents_std.tolist(),
        "latents_fps": contract["latents_fps"] if met else rate,
        "shift_places": max(math.prod(shape[1:]) for shape in notes["latents_shapes"]),
        "text_width": text_encoder.width,
        "video_vae": digest_folder(folder / VIDEO_VAE),
        "text_encoder": digest_folder(folder / TEXT_ENCODER),
    }
    differing = [name for name, value in found.items() if contract[name] != value]
    kept = (folder / TEXT_ENCODER / f"{EMPTY_PROMPT}.safetensors").is_file()  # among what was compared; in bfloat16 machines differ by more
    if not differing and not kept and not _is_like(contract["empty_prompt"], text_encoder):
        differing = ["empty_prompt"]
    if differing:
        raise MismatchedModelError(
            f"`{folder}`: `{differing[0]}` is not what the diffusion transformer was trained with; "
            "hint: keep a text-to-video folder as training exported it"
        )


def _is_like(noted: list[list[float]], text_encoder: "TextEncoder") -> bool:
    """Answers whether a text encoder makes of the empty prompt what it made of it in training."""
    embeds, mask = text_encoder([""])
    found, expected = embeds[0][mask[0]].cpu().float(), torch.tensor(noted)
    return found.shape == expected.shape and bool((found - expected).abs().max() <= LIKE * expected.abs().max())
