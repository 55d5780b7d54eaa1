"""Which shapes a project's clips have, how many tokens each is to the diffusion transformer, and what was lost for them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from components.sections import Config
from components.store import tables
from components.store.filters import KEPT
from components.store.project import Project

RECORD = "shapes"
COLUMNS = ("num_frames", "height", "width")


@dataclass(frozen=True)
class ClipShape:
    """A shape of clips in the table; `tokens` of one clip are null where the VAE is not known yet."""

    num_frames: int
    height: int
    width: int
    clips: int
    kept: int
    tokens: int | None


@dataclass(frozen=True)
class ClipShapes:
    """The shapes of a project's clips, the largest first.

    Attributes:
        padding: the share of tokens that would be padding if every clip were padded to the largest; in batches of one shape none is.
        plan: what became of the footage that the shapes were planned from; null where clips have one shape.
    """

    shapes: list[ClipShape]
    padding: float | None
    plan: dict[str, Any] | None


def recorded_plan(project: Project) -> dict[str, Any] | None:
    """Answers the plan of shapes that a project's clips are cut to, or None while there is none."""
    record = project.record(RECORD)
    return record if record is not None and {"maker", "plan"} <= record.keys() else None


def clip_shapes(config: Config, project: Project) -> ClipShapes:
    """Reads which shapes the clips of a project have."""
    clips = tables.clips(project)
    rows, kept = clips.read([*COLUMNS, "latents_shape"]), Counter(map(_shape, clips.read(COLUMNS, KEPT)))
    counted, latents = Counter(map(_shape, rows)), {_shape(row): row["latents_shape"] for row in rows if row["latents_shape"]}
    found = [
        ClipShape(*shape, clips=counted[shape], kept=kept[shape], tokens=tokens_of(config, shape, latents.get(shape)))
        for shape in sorted(counted, key=lambda shape: (-shape[0] * shape[1] * shape[2], shape))
    ]
    record = recorded_plan(project) if config.clip.max_shapes > 1 else None
    return ClipShapes(found, _padding(found), record["plan"] if record else None)


def _shape(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return row["num_frames"], row["height"], row["width"]


def tokens_of(config: Config, shape: tuple[int, int, int], latents_shape: list[int] | None = None) -> int | None:
    """Answers how many tokens a clip of a shape is to the diffusion transformer.

    Args:
        latents_shape: (C, T, H, W) of such a clip, where it was encoded.
    """
    if latents_shape is None and config.vae.pretrained is None:
        size = config.vae.size
        frames = 1 + (shape[0] - 1) // size.temporal_compression_ratio
        latents_shape = [size.latent_channels, frames, *(side // size.spatial_compression_ratio for side in shape[1:])]
    if latents_shape is None:
        return None
    tokens = 1
    for side, patch in zip(latents_shape[1:], config.dit.size.patch_size, strict=True):
        tokens *= ceil(side / patch)
    return tokens


def _padding(shapes: list[ClipShape]) -> float | None:
    used = [(shape.clips, shape.tokens) for shape in shapes if shape.tokens is not None]
    if len(used) < len(shapes) or not used:
        return None
    largest = max(tokens for _, tokens in used)
    return 1.0 - sum(clips * tokens for clips, tokens in used) / (largest * sum(clips for clips, _ in used))
