"""Which shapes a project's clips have, how many tokens each is to the diffusion transformer, and what was lost for them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Any

from components.ingest.shapes import Plan
from components.operations.finetune import Base, base_model
from components.sections import Config
from components.store import tables
from components.store.filters import KEPT
from components.store.project import Project

RECORD = "shapes"
COLUMNS = ("num_frames", "height", "width")
Sides = tuple[int, int, int]  # frames, height and width of clips


@dataclass(frozen=True)
class ClipShape:
    """A shape of clips in the table; `tokens` of one clip, and the share of what they hold that is padding, are null without a VAE."""

    num_frames: int
    height: int
    width: int
    clips: int
    kept: int
    tokens: int | None
    padding: float | None


@dataclass(frozen=True)
class ClipShapes:
    """The shapes of a project's clips, the largest first.

    Attributes:
        padding: the share of what all tokens hold that is zeros, where latents end within a patch; null where it is not known.
        side_multiple: of pixels; sides of a multiple of it end with a patch. Null where all do.
        padding_to_largest: the share of all tokens that would be padding if every clip were padded to the largest.
        plan: what became of the footage that the shapes were planned from; null where clips have one shape.
    """

    shapes: list[ClipShape]
    padding: float | None
    side_multiple: int | None
    padding_to_largest: float | None
    plan: dict[str, Any] | None


def recorded_plan(project: Project) -> dict[str, Any] | None:
    """Answers the plan of shapes that a project's clips are cut to, or None while there is none that can be read."""
    record = project.record(RECORD)
    return record if record is not None and {"maker", "files", "plan"} <= record.keys() and Plan.is_one(record["plan"]) else None


def clip_shapes(config: Config, project: Project) -> ClipShapes:
    """Reads which shapes the clips of a project have."""
    clips = tables.clips(project)
    rows, kept = clips.read([*COLUMNS, "latents_shape"]), Counter(map(_shape, clips.read(COLUMNS, KEPT)))
    encoded = {_shape(row): row["latents_shape"] for row in rows if row["latents_shape"]}
    record = recorded_plan(project) if config.clip.max_shapes > 1 else None
    base = base_model(config, project)
    encoded = {} if base else encoded  # which may be by a VAE of the project's own
    return shapes_in_tokens(config, Counter(map(_shape, rows)), kept, encoded, record["plan"] if record else None, base)


def shapes_in_tokens(
    config: Config,
    clips: Mapping[Sides, int],
    kept: Mapping[Sides, int],
    encoded: Mapping[Sides, Sequence[int]],
    plan: dict[str, Any] | None,
    base: Base | None = None,
) -> ClipShapes:
    """Counts clips of several shapes in tokens of the diffusion transformer.

    Args:
        clips, kept: how many there are of each shape, and how many of them are kept.
        encoded: the shape (C, T, H, W) of the latents of clips of a shape, where it is known.
        plan: of the shapes.
        base: the model that is trained further, whose patches and latents they are then; None: those of the settings.
    """
    patch_size, found, multiples = (base.size if base else config.dit.size).patch_size, [], set()
    for shape in sorted(clips, key=lambda shape: (-prod(shape), shape)):
        latents = encoded[shape][1:] if shape in encoded else _latents(config, shape, base)  # (T, H, W)
        tokens = padding = None
        if latents is not None:
            patches = [(side, patch) for side, patch in zip(latents, patch_size, strict=True)]
            tokens = prod(ceil(side / patch) for side, patch in patches)
            padding = 1.0 - prod(latents) / (tokens * prod(patch_size))
            multiples |= {pixels // side * patch for pixels, (side, patch) in zip(shape[1:], patches[1:], strict=True) if side % patch}
        found.append(ClipShape(*shape, clips[shape], kept[shape], tokens, padding))
    counted = [(shape.clips, shape.tokens, shape.padding) for shape in found if shape.tokens and shape.padding is not None]
    if len(counted) < len(found) or not counted:
        return ClipShapes(found, None, None, None, plan)
    total, largest = sum(count * tokens for count, tokens, _ in counted), max(tokens for _, tokens, _ in counted)
    padded = sum(count * tokens * padding for count, tokens, padding in counted) / total
    return ClipShapes(found, padded, lcm(*multiples) if multiples else None, 1.0 - total / (largest * sum(clips.values())), plan)


def of_padding(config: Config, shapes: ClipShapes) -> str | None:
    """Says how much of what tokens hold is padding, and the way out; None where it is not known."""
    if not shapes.padding:
        return None if shapes.padding is None else "nothing is padded"
    said = f"{shapes.padding:.1%} of what tokens hold is padding"
    if shapes.side_multiple is None:
        return said
    way = f"`--set clip.side_multiple={shapes.side_multiple}`" if config.clip.max_shapes > 1 else "other `clip.height` and `clip.width`"
    return f"{said}, since a patch is {shapes.side_multiple} pixels wide and sides are no multiples of that; hint: {way}"


def _shape(row: Mapping[str, Any]) -> Sides:
    return row["num_frames"], row["height"], row["width"]


def _latents(config: Config, shape: Sides, base: Base | None) -> list[int] | None:
    """Answers the shape (T, H, W) of a clip's latents, as the base or the settings let it be foreseen."""
    if base is not None:
        frames, side = base.frames, base.side
    elif config.vae.pretrained is not None:
        return None
    else:
        frames, side = config.vae.size.temporal_compression_ratio, config.vae.size.spatial_compression_ratio
    return [1 + (shape[0] - 1) // frames, *(length // side for length in shape[1:])]
