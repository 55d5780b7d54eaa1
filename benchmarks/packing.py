"""How much of mixed real footage becomes clips of few shapes, and how little of what the transformer reads is padding.

Scenes are found in every file that is no broken one; shapes are planned from them, and the clips that are cut to them are counted in
tokens of latents, 4x8x8 pixels each, in patches of 1x2x2. Batches hold clips of one shape, or clips of all shapes packed one behind the
other; padding every clip to the largest stands beside. Shrinking a picture counts as no loss; cropping, cutting off and leaving out do.

Run: python -m benchmarks.packing [--quick]

`--quick` takes the scenes from what is known of the files' cuts, and decodes nothing.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.vae_peers import footage_folder
from components.config import load_config
from components.ingest.scenes import FindPieces
from components.ingest.shapes import Piece, Plan, plan_shapes
from components.ingest.sources import find_sources
from components.sections import Config
from components.train.buckets import Filling, Shapes, unfilled

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


def clips_of(plan: Plan) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yields the shape of each clip's latents and its tokens."""
    for shape, count in zip(plan.shapes.shapes, plan.clips, strict=True):
        latents = 1 + (shape.num_frames - 1) // 4, shape.height // 8, shape.width // 8
        for _ in range(count):
            yield latents, latents[0] * -(-latents[1] // 2) * -(-latents[2] // 2)


def told(files: dict[str, list[Piece]], height: int, width: int) -> dict[str, Any]:
    """Plans shapes of at most so many pixels and answers what they are worth."""
    pieces = [piece for found in files.values() for piece in found]
    config, one = config_of(height, width, MOST_SHAPES), config_of(height, width, 1)
    began = time.perf_counter()
    plan = plan_shapes(pieces, config.clip, config.scenes.min_scene_seconds)
    seconds = time.perf_counter() - began
    clips = list(clips_of(plan))
    tokens, shapes = (
        [count for _, count in clips],
        {shape: [i for i, (other, _) in enumerate(clips) if other == shape] for shape, _ in clips},
    )
    budget = CLIPS_A_STEP * max(tokens)
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
        "clips": len(clips),
        "discarded": 1.0 - plan.kept,
        "discarded, all of one shape": 1.0 - in_one.kept,
        "files used": used / len(files),
        "scenes used, of half a second or more": sum(plan.shapes.best(piece) is not None for piece in long) / len(long),
        "padding, batches of one shape": 0.0,  # clips of a batch are alike
        "unfilled, batches of one shape": unfilled(Filling(1, budget), tokens, shapes, 0),
        "seen again, batches of one shape": seen_again(budget, tokens, shapes),
        "padding, packed": 0.0,
        "unfilled, packed": unfilled(Filling(1, budget, packed=True), tokens, shapes, 0),
        "padding to the largest": 1.0 - sum(tokens) / (len(tokens) * max(tokens)),
    }


def seen_again(budget: int, tokens: list[int], shapes: Shapes) -> float:
    """Answers which share of an epoch's tokens fills up the last batch of each shape with clips that it had before."""
    filling, held = Filling(1, budget), 0
    for rows in shapes.values():
        clips = filling.clips_of(tokens[rows[0]])
        held += -(-len(rows) // clips) * clips * tokens[rows[0]]
    return 1.0 - sum(tokens) / held


BARS: dict[str, tuple[float, bool]] = {  # the bar, and whether it is the most that is allowed
    "shapes": (MOST_SHAPES, True),
    "discarded": (0.10, True),
    "files used": (0.95, False),
    "scenes used, of half a second or more": (0.95, False),
    "padding, batches of one shape": (0.05, True),
    "unfilled, batches of one shape": (0.05, True),
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
