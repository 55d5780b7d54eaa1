"""What a diffusion transformer was trained with, compared with what lies beside it when it is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.models.weights import digest_folder

if TYPE_CHECKING:
    from components.encode.pretrained_vae import PretrainedVae
    from components.encode.text import TextEncoder
    from components.models.vae import VideoVae

VIDEO_VAE, TEXT_ENCODER = "video-vae", "text-encoder"


class MismatchedModelError(ValueError):
    """Parts of a text-to-video folder that were not trained together; the message names the one that differs."""


def check_contract(notes: Mapping[str, Any], vae: "VideoVae | PretrainedVae", text_encoder: "TextEncoder", folder: Path) -> None:
    """Compares what the transformer was trained on with what lies beside it.

    Raises:
        MismatchedModelError: something of it is another.
    """
    contract = notes["contract"]
    found = {
        "latents_mean": vae.latents_mean.tolist(),
        "latents_std": vae.latents_std.tolist(),
        "text_width": text_encoder.width,
        "video_vae": digest_folder(folder / VIDEO_VAE),
        "text_encoder": digest_folder(folder / TEXT_ENCODER),
    }
    for name, value in found.items():
        if contract[name] != value:
            raise MismatchedModelError(
                f"`{folder}`: `{name}` is not what the diffusion transformer was trained with; "
                "hint: keep a text-to-video folder as training exported it"
            )
