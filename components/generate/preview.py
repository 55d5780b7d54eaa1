"""Draws a few samples of a model in training, beside it."""

import json
import math
import os
from fractions import Fraction
from pathlib import Path


def preview(folder: Path, out: Path, prompts: list[str], steps: int | None = None, seed: int = 0, images: bool = False) -> None:
    """Writes OUT.png, a row of frames for each prompt, and OUT.mp4, the samples side by side.

    Args:
        images: of one frame, the largest that the model saw.
    """
    import numpy as np

    from components.generate.generator import Generator
    from components.media.write import write_sheet, write_video

    generator = Generator.load(folder)
    frames = height = width = None
    if images:
        frames, (height, width) = 1, max((size for size, lengths in generator.shapes.lengths.items() if 1 in lengths), key=math.prod)
    samples = generator.generate(
        prompts, [seed] * len(prompts), num_frames=frames, height=height, width=width, rewrite=False, num_inference_steps=steps
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out.with_suffix(".mp4"), np.concatenate([sample.frames for sample in samples], axis=2), Fraction(generator.fps))
    write_sheet(out.with_suffix(".png"), [sample.frames for sample in samples])


def main(folder: str, out: str, prompts: str, steps: str, what: str) -> None:
    """Draws with what the machine has to spare: at the lowest priority, on one thread."""
    os.nice(19)
    import torch

    torch.set_num_threads(1)
    preview(Path(folder), Path(out), json.loads(prompts), int(steps), images=what == "images")
