"""What a training of the diffusion transformer is planned from: the network of the settings or of a finished model, the clips there are."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from components.config import changed
from components.models.weights import DamagedFolderError, load_json
from components.operations.finetune import base_model
from components.operations.freshness import model_folder, text_encoder_folder
from components.operations.preflight import Network
from components.operations.ways_out import Latents
from components.sections import Config
from components.store import tables
from components.store.filters import CAPTIONED, KEPT, READY, TRAINING
from components.store.project import Project
from components.store.tensors import HALF, IN_MEMORY

UNKNOWN_TEXT_WIDTH = 4096  # of T5-XXL and UMT5-XXL


@dataclass(frozen=True)
class Facts:
    """What is trained, and on what.

    Attributes:
        config: the settings, with the size of what is trained.
        text_tokens: of a prompt, at most.
        clips: how many there are of each shape of latents.
        clip_bytes: of all latents and text embeddings, which each worker holds; 0 where they are too many, or there are no clips yet.
        notes: what was assumed.
    """

    config: Config
    network: Network
    text_tokens: int
    clips: Mapping[Latents, int]
    clip_bytes: int
    notes: list[str]


def facts_of(config: Config, project: Project) -> Facts:
    """Reads what a training with these settings is planned from.

    Raises:
        ModelNotFoundError: there is no such model to train further; says what there is.
        ValueError: the settings do not suit it, or the latents' shape is not known yet.
    """
    notes: list[str] = []
    base = base_model(config, project)
    noted = None if base is None else load_json(base.folder, "dit")
    if noted is not None:
        config = changed(config, {"dit.size": noted["size"]})
    width, tokens = _text_shape(config, project, noted, notes)
    vae = _vae_facts(config, project) if base is None or noted is None else (int(noted["latent_channels"]), base.frames, base.side)
    clips, known = _clips(config, project, vae, base is None, notes)
    of_text = [shape for shape in _read(project, "text_shape") if shape[1] == width]
    texts = sum(map(prod, of_text)) or sum(clips.values()) * tokens * width
    held = HALF * (texts + sum(count * prod(shape) for shape, count in clips.items()))
    if known and held > IN_MEMORY:
        notes.append(f"latents and text embeddings take {held / 2**30:.3g} GiB, so workers do not hold them; each step reads its own")
        known = False
    return Facts(config, Network(config.dit.size, vae[0], width, config.dit.lora_rank), tokens, clips, held if known else 0, notes)


def _text_shape(config: Config, project: Project, base: Mapping[str, Any] | None, notes: list[str]) -> tuple[int, int]:
    """Answers how wide prompts are, and how many tokens they have at most: as the table has it, or as it can be foreseen."""
    chosen, folder = config.text_encoder, text_encoder_folder(config, project)
    if chosen.pretrained is None:
        size = config.captioner.size
        width, tokens = size.text_width, size.context_length
        if config.captioner.pretrained is not None and folder is not None:
            width = int(load_json(folder, "kinora")["text_width"])
    elif folder is not None:
        width, tokens = int(load_json(folder, "text_encoder")["text_width"]), chosen.max_tokens
    else:
        width, tokens = UNKNOWN_TEXT_WIDTH, chosen.max_tokens
        if base is None:
            notes.append(f"the text encoder was not taken yet; its width is reckoned as {width}; hint: `kinora run encode` takes it")
    width = width if base is None else int(base["text_width"])
    of_width = [shape for shape in _read(project, "text_shape") if shape[1] == width]
    return width, max((shape[0] for shape in of_width), default=tokens)


def _vae_facts(config: Config, project: Project) -> tuple[int, int, int]:
    """Answers the channels of a project's latents, and the frames and pixels of a side that one of them holds.

    Raises:
        ValueError: a pretrained VAE, which was not taken yet.
    """
    if config.vae.pretrained is None:
        size = config.vae.size
        return size.latent_channels, size.temporal_compression_ratio, size.spatial_compression_ratio
    if (noted := _of_pretrained(project)) is None:
        raise ValueError(f"the shape of the latents of `{config.vae.pretrained}` is not known yet; hint: `kinora run train_vae` takes it")
    return noted["latent_channels"], noted["temporal_compression_ratio"], noted["spatial_compression_ratio"]


def _of_pretrained(project: Project) -> dict[str, Any] | None:
    folder = model_folder("train_vae", project)
    with contextlib.suppress(DamagedFolderError):
        return None if folder is None else dict(load_json(folder, "vae"))
    return None


def _clips(
    config: Config, project: Project, vae: tuple[int, int, int], as_encoded: bool, notes: list[str]
) -> tuple[dict[Latents, int], bool]:
    """Answers how many clips have latents of each shape: those that were encoded, else those that will be, else what the settings cut.

    Args:
        vae: channels of latents, and the frames and pixels of a side that one of them holds.
        as_encoded: what was encoded was by this VAE, where it has as many channels.

    Returns:
        Beside them, whether there are any clips.
    """
    channels, frames, side = vae
    if as_encoded and (known := [shape for shape in _read(project, "latents_shape") if shape[0] == channels]):
        return dict(Counter((a, b, c, d) for a, b, c, d in known)), True
    clip, rows = config.clip, []
    counted: Counter[tuple[int, int, int]] = Counter()
    if tables.exists(project, "clips"):
        columns = ["num_frames", "height", "width"]
        table = tables.clips(project)
        rows = next(filter(None, (table.read(columns, where) for where in (READY, CAPTIONED, TRAINING, KEPT))), [])
    if not rows:
        notes.append("there are no clips yet; they are reckoned as `clip` cuts them, and as many as all steps see")
        counted[clip.num_frames, clip.height, clip.width] = config.dit.steps * config.dit.batch_size
    counted.update((row["num_frames"], row["height"], row["width"]) for row in rows)
    found = {(channels, 1 + (shape[0] - 1) // frames, shape[1] // side, shape[2] // side): count for shape, count in counted.items()}
    return found, bool(rows)


def _read(project: Project, column: str) -> list[list[int]]:
    """Answers a column of the clips that steps see, where it is known; none while none of them is encoded."""
    if not tables.exists(project, "clips"):
        return []
    return [row[column] for row in tables.clips(project).read([column], f"{READY} AND {column} IS NOT NULL")]
