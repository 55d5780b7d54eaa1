"""How much of mixed real footage becomes clips of few shapes, and how little of what the transformer reads is padding.

Scenes are found in every file that is no broken one; shapes are planned from them, and the clips that are cut to them become latents of
ones, as large as the VAE of the profile `gpu` makes them. Batches of an epoch are drawn as a training draws them, of clips of one shape,
or of all shapes packed one behind the other, and cut into patches as the transformer cuts them: what is zero there, and what is of a clip
that the epoch had before, is padding. What of the steps' budget stays unfilled is told too, and has a bar where a shape has clips enough to
fill a batch; the last batch of each shape, and a packed one, is as long as its clips, so what it leaves empty costs no time.
Padding every clip to the largest stands beside. Shrinking a picture counts as no loss; cropping, cutting off and leaving out do.

Run: python -m benchmarks.packing [--quick]

`--quick` takes the scenes from what is known of the files' cuts, and decodes nothing.
"""

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.vae_peers import footage_folder
from components.config import load_config
from components.ingest.scenes import FindPieces
from components.ingest.shapes import Piece, Plan, plan_shapes
from components.ingest.sources import find_sources
from components.models.patches import pad_to_patches, patchify, token_grid
from components.sections import Config
from components.train.buckets import Filling, first_epoch
from components.train.dit_batches import Encoded, dit_batches

KINDS = ("clip", "multishot", "image")
MOST_SHAPES = 12
SIZES = ((256, 256), (480, 832))  # of the most pixels; clips of at most 49 frames at 16 a second
CLIPS_A_STEP = 8  # of the largest, as the budget of a packed step


def config_of(height: int, width: int, max_shapes: int) -> Config:
    """Answers settings that take all clips of a scene."""
    sides = [f"clip.height={height}", f"clip.width={width}"]
    return load_config("gpu", [*sides, f"clip.max_shapes={max_shapes}", "clip.max_clips_per_scene=1000000"])


def pieces_of_files(config: Config, quick: bool) -> dict[str, list[Piece]]:
    """Answers the pieces of each whole file of the footage."""
    folder = footage_folder()
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["kind"] in KINDS]
    if quick:
        cuts = json.loads((folder / "cuts.json").read_text())
        return {row["file"]: list(_said(row, cuts.get(row["file"], {}), config.clip.fps)) for row in rows}
    return {row["file"]: _found(config, folder / row["file"]) for row in rows}


def _said(row: dict[str, str], cuts: dict[str, Any], fps: int) -> Iterator[Piece]:
    """Yields what lies between the cuts and gradual transitions that are known of a file."""
    sides = int(row["height"]), int(row["width"])
    if row["kind"] == "image":
        yield Piece(*sides, 1, still=True)
        return
    frames = cuts.get("frames") or round(float(row["duration_s"]) * float(row["fps"]))
    between = [(cut, cut) for cut in cuts.get("hard_cuts", ())]
    between += [(found["range"][0], found["range"][1] + 1) for found in cuts.get("gradual", ())]
    first = 0
    for last, after in [*sorted(between), (frames, frames)]:
        ticks = int((last - first) / frames * float(row["duration_s"]) * fps)
        if ticks > 0:
            yield Piece(*sides, ticks)
        first = max(first, after)


def _found(config: Config, path: Path) -> list[Piece]:
    (source,) = find_sources(path, None, config.footage)
    return FindPieces(config)(source.as_dict())


def latents_of(plan: Plan, config: Config) -> list[np.ndarray]:
    """Answers a latent of ones, (1, T, H, W), for each clip of a plan; they take no memory."""
    frames, side = config.vae.size.temporal_compression_ratio, config.vae.size.spatial_compression_ratio
    one = np.ones((1, 1, 1, 1), np.float16)
    shapes = [(1, 1 + (shape.num_frames - 1) // frames, shape.height // side, shape.width // side) for shape in plan.shapes.shapes]
    return [np.broadcast_to(one, shape) for shape, count in zip(shapes, plan.clips, strict=True) for _ in range(count)]


@dataclass(frozen=True)
class Road:
    """What the tokens of an epoch hold, one of the two ways of filling steps, in shares: see `Epoch` for the last two."""

    padding: float
    unfilled: float
    seen_again: float


def road_of(latents: list[np.ndarray], filling: Filling, patch_size: tuple[int, int, int]) -> Road:
    """Draws an epoch's batches as a training does and looks into their tokens."""
    clip_ids = tuple(str(number) for number in range(len(latents)))
    encoded = Encoded(clip_ids, latents, [np.zeros((1, 1), np.float16)] * len(latents), [1.0] * len(latents))
    batches, steps = dit_batches(encoded, filling, patch_size, 0)
    seen: set[str] = set()
    room = held = 0
    for batch in islice(batches(0), steps):
        for clip_id, clip in zip(batch.clip_ids, batch.latents, strict=True):
            tokens = patchify(pad_to_patches(clip[None], patch_size), patch_size)
            room += tokens.numel()
            held += 0 if clip_id in seen else int(tokens.count_nonzero())
            seen.add(clip_id)
    assert seen == set(clip_ids)
    epoch = first_epoch(filling, encoded.tokens(patch_size), encoded.shapes, 0)
    return Road(1.0 - held / room, epoch.unfilled, epoch.seen_again)


def unfilled_of_whole(budget: int, tokens: list[int], latents: list[np.ndarray]) -> float:
    """Answers what of the budget no further clip fits in, over the batches that have as many clips of their shape as fit."""
    steps = held = 0
    for (_, each), count in Counter(zip((clip.shape for clip in latents), tokens, strict=True)).items():
        steps += count // (budget // each)
        held += count // (budget // each) * (budget // each) * each
    return 1.0 - held / (steps * budget)


def told(files: dict[str, list[Piece]], height: int, width: int) -> dict[str, Any]:
    """Plans shapes of at most so many pixels and answers what they are worth."""
    pieces = [piece for found in files.values() for piece in found]
    config, one = config_of(height, width, MOST_SHAPES), config_of(height, width, 1)
    began = time.perf_counter()
    plan = plan_shapes(pieces, config.clip, config.scenes.min_scene_seconds)
    seconds = time.perf_counter() - began
    latents, patch_size = latents_of(plan, config), config.dit.size.patch_size
    tokens = [prod(token_grid(clip.shape[1:], patch_size)) for clip in latents]
    budget = CLIPS_A_STEP * max(tokens)
    apart, packed = (road_of(latents, Filling(1, budget, packing), patch_size) for packing in (False, True))
    used = sum(any(plan.shapes.best(piece) for piece in found) for found in files.values())
    long = [piece for piece in pieces if piece.still or piece.num_frames >= config.scenes.min_scene_seconds * config.clip.fps]
    in_one = plan_shapes(pieces, one.clip, one.scenes.min_scene_seconds)
    print(f"\n{height}x{width}: planned in {seconds:.2f} s")
    for shape, count in zip(plan.shapes.shapes, plan.clips, strict=True):
        print(f"  {shape!s:>12}  {count:4} clips")
    for reason, share in plan.discarded.items():
        print(f"  {share:6.1%} {reason}")
    return {
        "shapes": len(plan.shapes.shapes),
        "clips": len(latents),
        "discarded": 1.0 - plan.kept,
        "discarded, all of one shape": 1.0 - in_one.kept,
        "files used": used / len(files),
        "scenes used": sum(plan.shapes.best(piece) is not None for piece in pieces) / len(pieces),
        "scenes used, of half a second or more": sum(plan.shapes.best(piece) is not None for piece in long) / len(long),
        "padding, batches of one shape": apart.padding,
        "of it clips seen again, batches of one shape": apart.seen_again,
        "unfilled, batches of one shape": apart.unfilled,
        "unfilled, whole batches of one shape": unfilled_of_whole(budget, tokens, latents),
        "padding, packed": packed.padding,
        "of it clips seen again, packed": packed.seen_again,
        "unfilled, packed": packed.unfilled,
        "padding to the largest": 1.0 - sum(tokens) / (len(tokens) * max(tokens)),
    }


BARS: dict[str, tuple[float, bool]] = {  # the bar, and whether it is the most that is allowed
    "shapes": (MOST_SHAPES, True),
    "discarded": (0.10, True),
    "files used": (0.95, False),
    "scenes used, of half a second or more": (0.95, False),
    "padding, batches of one shape": (0.05, True),
    "unfilled, whole batches of one shape": (0.05, True),
    "padding, packed": (0.05, True),
}


def figure(name: str, value: float) -> dict[str, Any]:
    bar, most = BARS.get(name, (None, True))
    holds = None if bar is None else bool(value <= bar if most else value >= bar)
    return {"value": round(value, 4), "bar": bar, "holds": holds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="take the known cuts and decode nothing")
    quick = parser.parse_args().quick
    files = pieces_of_files(config_of(*SIZES[0], MOST_SHAPES), quick)
    print(f"{len(files)} files, {sum(map(len, files.values()))} scenes and images")
    found = {f"{height}x{width}": told(files, height, width) for height, width in SIZES}
    print()
    print(json.dumps({f"{size}: {name}": figure(name, value) for size, values in found.items() for name, value in values.items()}))


if __name__ == "__main__":
    main()
