"""CoCa models of OpenCLIP: built by size, written and read in OpenCLIP's own folder format, or taken by name and tag.

A folder holds `open_clip_config.json` and `open_clip_model.safetensors`, which `open_clip.create_model("local-dir:FOLDER")`
reads as it is, `vocabulary.txt.gz` for its SimpleTokenizer, and `kinora.json` with what OpenCLIP does not keep.
"""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.models.sizes import CocaSize
from components.models.weights import MANIFEST, digest_folder, load_json, load_tensors, new_folder, read_manifest, sha256_of, write_tensors
from components.openclip.mosaic import Mosaic
from components.openclip.parts import part
from components.openclip.tokenizer import VOCABULARY, fit_vocabulary, load_tokenizer, longest

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS, KINORA = "open_clip_config", "open_clip_model", "kinora"
BEYOND_PLAIN = ("timm_model_name", "hf_model_name", "hf_tokenizer_name")  # towers and tokenizers of other libraries


class CaptionerError(ValueError):
    """A captioner that cannot be had; the message is one sentence with the way out."""


@dataclass(frozen=True)
class Coca:
    """A CoCa with all that its input and output need.

    Attributes:
        model: `open_clip.CoCa`, in evaluation mode when it was loaded.
        config: OpenCLIP's `model_cfg`.
        mean, std: of the picture's channels, on a scale from 0 to 1.
        origin: `trained`, `untrained` (a text encoder alone, of random weights) or `pretrained`.
        max_tokens: longest caption it writes, both marks counted.
        vocabulary: the bytes of the tokenizer's file; None for OpenCLIP's whole vocabulary.
        measured: what its training measured last, by name; empty when nothing was.
    """

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    mosaic: Mosaic
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str
    max_tokens: int
    vocabulary: bytes | None = None
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def text_width(self) -> int:
        return int(self.config["text_cfg"]["width"])

    @property
    def can_caption(self) -> bool:
        return self.origin != "untrained"


def coca_config(size: CocaSize, vocab_size: int, context_length: int) -> dict[str, Any]:
    """Answers OpenCLIP's `model_cfg` of a size."""
    if size.embed_dim != size.text_width:
        raise ValueError(
            f"a CoCa's decoder reads the picture at its own width: `embed_dim` {size.embed_dim} is not `text_width` {size.text_width}"
        )
    heads = max(1, size.text_width // size.head_width)
    text = {"context_length": context_length, "vocab_size": vocab_size, "width": size.text_width, "heads": heads}
    return {
        "embed_dim": size.embed_dim,
        "vision_cfg": {
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "width": size.vision_width,
            "layers": size.vision_layers,
            "head_width": size.head_width,
            "attentional_pool": True,
            "attn_pooler_queries": size.pool_queries,
            "attn_pooler_heads": heads,
            "output_tokens": True,
        },
        "text_cfg": {**text, "layers": size.text_layers, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "layers": size.decoder_layers},
        "custom_text": True,
    }


def build_coca(
    size: CocaSize,
    captions: Sequence[str],
    *,
    mosaic_frames: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    origin: str = "trained",
) -> Coca:
    """Builds a CoCa whose vocabulary and context length fit the captions; the same captions and seed are the same weights.

    A patch of its pictures holds one tile of every frame, so the first layer sees motion.
    """
    vocabulary = fit_vocabulary(captions, size.vocab_size)
    words = longest(load_tokenizer(vocabulary, size.context_length), captions)
    context_length = min(size.context_length, 8 * math.ceil(words / 8))
    tokenizer = load_tokenizer(vocabulary, context_length)
    config = coca_config(size, tokenizer.vocab_size, context_length)
    model = _new_model(config, seed)
    mosaic = Mosaic(mosaic_frames, size.image_size, size.patch_size // math.isqrt(mosaic_frames))
    return Coca(model, tokenizer, config, mosaic, _three(mean), _three(std), origin, min(words, context_length), vocabulary)


def save_coca(folder: Path, coca: Coca) -> str:
    """Writes a CoCa in OpenCLIP's local-dir format, whole or not at all, and answers the folder's digest."""
    preprocess = {"mean": list(coca.mean), "std": list(coca.std), "interpolation": "bicubic", "resize_mode": "squash"}
    kinora = {
        "format": "kinora-captioner",
        "mosaic": coca.mosaic.settings,
        "origin": coca.origin,
        "max_tokens": coca.max_tokens,
        "text_width": coca.text_width,
        "measured": coca.measured,
    }
    with new_folder(folder) as draft:
        _write_json(draft / f"{CONFIG}.json", {"model_cfg": coca.config, "preprocess_cfg": preprocess})
        _write_json(draft / f"{KINORA}.json", kinora)
        write_tensors(draft / f"{WEIGHTS}.safetensors", coca.model.state_dict())
        if coca.vocabulary is not None:
            (draft / VOCABULARY).write_bytes(coca.vocabulary)
    return digest_folder(folder)


def load_coca(source: str | Path, device: str = "cpu") -> Coca:
    """Loads a CoCa from a folder of ours, from any folder in OpenCLIP's local-dir format, or by `name:tag`.

    Raises:
        CaptionerError: it is not there, is not a CoCa, or cannot be fetched.
        DamagedFolderError: a file of our folder is not the one that was written.
    """
    folder = Path(source)
    if (folder / MANIFEST).is_file() and (folder / f"{KINORA}.json").is_file():
        coca = _load_ours(folder)
    elif folder.is_dir():
        coca = _load_local_dir(folder)
    elif ":" in str(source):
        coca = _load_pretrained(*str(source).split(":", 1))
    else:
        raise CaptionerError(f"the captioner `{source}` is not there; hint: a folder in OpenCLIP's format, or `name:tag`")
    coca.model.eval().to(device)
    return coca


def source_digest(source: str | Path) -> str:
    """Answers the digest of a captioner's weights by their place: of its files for a folder, of the words for `name:tag`."""
    import hashlib

    folder = Path(source)
    if (folder / MANIFEST).is_file():
        return digest_folder(folder)
    if not folder.is_dir():
        return hashlib.sha256(str(source).encode()).hexdigest()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files).encode()).hexdigest()


def _load_ours(folder: Path) -> Coca:
    document, kinora = load_json(folder, CONFIG), load_json(folder, KINORA)
    config, preprocess = document["model_cfg"], document["preprocess_cfg"]
    vocabulary = (folder / VOCABULARY).read_bytes() if VOCABULARY in read_manifest(folder) else None
    if _is_plain(config):
        model = _new_model(config, seed=None)
        model.load_state_dict(load_tensors(folder, WEIGHTS))
        tokenizer = load_tokenizer(vocabulary, config["text_cfg"]["context_length"])
    else:
        model, tokenizer = _by_whole_package(folder)
    return Coca(
        model,
        tokenizer,
        config,
        Mosaic(**kinora["mosaic"]),
        _three(preprocess["mean"]),
        _three(preprocess["std"]),
        kinora["origin"],
        int(kinora["max_tokens"]),
        vocabulary,
        kinora["measured"],
    )


def _load_local_dir(folder: Path) -> Coca:
    try:
        document = json.loads((folder / f"{CONFIG}.json").read_text())
        config = document["model_cfg"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as error:
        raise CaptionerError(
            f"`{folder}` has no {CONFIG}.json with a `model_cfg`; hint: a folder in OpenCLIP's local-dir format"
        ) from error
    _check_coca(config, str(folder))
    weights = folder / f"{WEIGHTS}.safetensors"
    if not weights.is_file():
        raise CaptionerError(f"`{folder}` has no {weights.name}; hint: save the weights as safetensors, nothing is unpickled here")
    if _is_plain(config):
        from safetensors.torch import load_file

        model = _new_model(config, seed=None)
        model.load_state_dict(load_file(weights))
        tokenizer = load_tokenizer(None, config["text_cfg"].get("context_length", 77))
    else:
        model, tokenizer = _by_whole_package(folder)
    return _pretrained(model, tokenizer, config, document.get("preprocess_cfg") or {})


def _load_pretrained(name: str, tag: str) -> Coca:
    import open_clip

    models = [known for known in open_clip.list_models() if "multimodal_cfg" in open_clip.get_model_config(known)]
    if name not in models:
        raise CaptionerError(f"`{name}` is not a CoCa of OpenCLIP{_nearest(name, models)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise CaptionerError(f"`{tag}` is not a tag of `{name}`{_nearest(tag, tags)}")
    config = open_clip.get_model_config(name)
    try:
        model = open_clip.create_model(name, pretrained=tag)
    except (RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CaptionerError(
            f"the weights of `{name}:{tag}` cannot be fetched ({why}); hint: run once with a network, or name a folder in OpenCLIP's format"
        ) from error
    return _pretrained(model, open_clip.get_tokenizer(name), config, open_clip.get_pretrained_cfg(name, tag))


def _pretrained(model: Any, tokenizer: Any, config: dict[str, Any], preprocess: Mapping[str, Any]) -> Coca:
    """Wraps a model that learned from single pictures: it is shown the middle frame."""
    side = int(config["vision_cfg"].get("image_size", 224))
    constants = part("constants")
    mean, std = preprocess.get("mean") or constants.OPENAI_DATASET_MEAN, preprocess.get("std") or constants.OPENAI_DATASET_STD
    context_length = int(config["text_cfg"].get("context_length", 77))
    return Coca(model, tokenizer, config, Mosaic(1, side, side), _three(mean), _three(std), "pretrained", min(40, context_length))


def _new_model(config: dict[str, Any], seed: int | None) -> "nn.Module":
    """Builds OpenCLIP's CoCa; with a seed its weights are that seed's, without one they are about to be loaded."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        named = {key: value for key, value in config.items() if key != "custom_text"}
        model = part("coca_model").CoCa(**named)
        if seed is not None:
            _start_decoder(model.text_decoder)
    return model


def _start_decoder(decoder: Any) -> None:
    """Gives the decoder the start that OpenCLIP gives its text tower; CoCa leaves its last projection as memory was."""
    from torch import nn

    width, layers = decoder.width, decoder.layers
    for block in (*decoder.resblocks, *decoder.cross_attn):
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
    nn.init.normal_(decoder.text_projection, std=width**-0.5)


def _is_plain(config: Mapping[str, Any]) -> bool:
    towers = (config["vision_cfg"], config["text_cfg"], config.get("multimodal_cfg", {}))
    return not any(tower.get(name) for tower in towers for name in BEYOND_PLAIN)


def _by_whole_package(folder: Path) -> tuple[Any, Any]:
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}"), open_clip.get_tokenizer(f"local-dir:{folder}")


def _check_coca(config: Mapping[str, Any], name: str) -> None:
    if "multimodal_cfg" not in config:
        raise CaptionerError(
            f"`{name}` is an OpenCLIP model without a caption decoder; hint: one whose config has `multimodal_cfg`, a CoCa"
        )


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(names)}"


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True))
