"""Reads a VAE's folder, whether it was trained here or is one of diffusers."""

from pathlib import Path
from typing import TYPE_CHECKING

from components.models.vae import VideoVae
from components.models.vae import load_vae as load_own
from components.models.weights import load_json

if TYPE_CHECKING:
    from components.encode.pretrained_vae import PretrainedVae


def load_vae(folder: str | Path, device: str = "cpu") -> "VideoVae | PretrainedVae":
    """Reads a VAE to encode and decode with; what its `vae.json` says it is built from tells its kind.

    Raises:
        PretrainedVaeError: it is one of diffusers, which is not installed.
    """
    if "codec" not in load_json(Path(folder), "vae"):
        return load_own(folder, device)
    from components.encode.pretrained_weights import load_pretrained_vae

    return load_pretrained_vae(Path(folder), device)
