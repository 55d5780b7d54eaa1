"""Reads and writes the weights of diffusers' video VAEs: of the hub, of a folder as diffusers saves it, and of a folder of ours."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.encode.pretrained_vae import FAMILIES, PretrainedVae, PretrainedVaeError
from components.models.weights import load_json, load_tensors, save_folder

logger = logging.getLogger("kinora")

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
UNPICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def take(source: str) -> PretrainedVae:
    """Reads a VAE of a folder as diffusers saves it, or of the hub, itself or in `vae` below; in single precision, as it was trained.

    Raises:
        PretrainedVaeError: it is not there, is of another kind, or its weights are not safetensors or not of its shape.
    """
    place, below, config = _config_of(source)
    family = str(config.get("_class_name"))
    if family not in FAMILIES:
        raise PretrainedVaeError(f"`{source}` is an {family}, which is no video VAE that can be used; there are {', '.join(FAMILIES)}")
    kind = _kind(family)
    try:
        codec, told = kind.from_pretrained(
            place, subfolder=below, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
        )
    except OSError as error:
        raise PretrainedVaeError(
            f"the weights of `{source}` cannot be had as safetensors ({_first_line(error)}); hint: a folder with "
            "diffusion_pytorch_model.safetensors, or once a network"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise _of_another_shape(source, _first_line(error)) from error
    if wrong := [*told["missing_keys"], *told["mismatched_keys"]]:
        raise _of_another_shape(source, f"`{wrong[0]}` does not fit")
    vae = FAMILIES[family](codec)
    if not vae.streams:
        logger.info("`%s` takes a clip as a whole: the longer the clip, the more memory", source)
    return vae


def save_pretrained_vae(folder: Path, vae: PretrainedVae, meta: Mapping[str, Any]) -> str:
    """Writes `vae.safetensors` and `vae.json`, which need no hub any more, and answers the folder's digest.

    Args:
        meta: JSON values to keep beside what it is built from: where it came from, clip settings, figures.
    """
    facts = {
        "latent_channels": vae.latent_channels,
        "temporal_compression_ratio": vae.frames,
        "spatial_compression_ratio": vae.side,
        "latents_mean": vae.latents_mean.tolist(),
        "latents_std": vae.latents_std.tolist(),
    }
    return save_folder(folder, {"vae": vae.codec.state_dict()}, {"vae": {**vars(vae.size), **facts, **meta}})


def load_pretrained_vae(folder: Path, device: str = "cpu") -> PretrainedVae:
    """Reads what `save_pretrained_vae` wrote, to encode and decode with."""
    noted = load_json(folder, "vae")
    vae = FAMILIES[noted["codec"]](_kind(noted["codec"]).from_config(noted["config"]))
    vae.codec.load_state_dict(load_tensors(folder, "vae"))
    vae.set_normalisation(torch.tensor(noted["latents_mean"]), torch.tensor(noted["latents_std"]))
    return vae.to(device).eval().requires_grad_(False)


def _of_another_shape(source: str, why: str) -> PretrainedVaeError:
    return PretrainedVaeError(
        f"the weights of `{source}` are not of the shape of its config.json ({why}); hint: keep both files of one checkpoint"
    )


def _kind(name: str) -> Any:
    """Answers a class of diffusers.

    Raises:
        PretrainedVaeError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise PretrainedVaeError(
            f"an {name} needs diffusers, which is not installed; hint: `pip install 'diffusers>=0.42,<0.43'`"
        ) from error
    return getattr(diffusers, name)


def _config_of(source: str) -> tuple[str, str | None, dict[str, Any]]:
    """Answers where a checkpoint is, in which folder below, and its config."""
    folder = Path(source)
    if not folder.is_dir():
        return _config_of_hub(source)
    for below in (None, "vae"):
        place = folder / below if below else folder
        if (place / "config.json").is_file():
            _check_safetensors(place)
            try:
                return str(folder), below, dict(json.loads((place / "config.json").read_text()))
            except ValueError as error:
                raise PretrainedVaeError(f"`{place / 'config.json'}` is no JSON object; hint: a folder as diffusers saves it") from error
    raise PretrainedVaeError(f"`{source}` has no config.json; hint: a folder as diffusers saves it, or one with such a folder `vae` in it")


def _check_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    found = next((path.name for pattern in UNPICKLED for path in sorted(folder.glob(pattern))), "no weights")
    raise PretrainedVaeError(
        f"`{folder}` has {found} and no safetensors, and nothing is unpickled here; hint: `save_pretrained` of diffusers writes safetensors"
    )


def _config_of_hub(source: str) -> tuple[str, str | None, dict[str, Any]]:
    if not HUB_ID.fullmatch(source):
        raise PretrainedVaeError(f"the VAE `{source}` is not there; hint: a folder as diffusers saves it, or an id of the hub, OWNER/NAME")
    why: OSError | None = None
    for below in ("vae", None):
        try:
            return source, below, dict(_kind("AutoencoderKLWan").load_config(source, subfolder=below))
        except OSError as error:
            why = error
    raise PretrainedVaeError(
        f"`{source}` cannot be fetched ({_first_line(why)}); hint: run once with a network, or name a folder as diffusers saves it"
    ) from why


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
