"""Does a training step of the diffusion transformer cost what its tokens predict: a part in proportion to them, attention to their square?

Run: python -m benchmarks.dit_scaling [--repeats 3] [--quick]
     python -m benchmarks.dit_scaling --device cuda [--quick]

Seconds of a step (forward, backward, clipping, AdamW) of one clip of 1024 tokens a frame, from 1k to 16k tokens in float32 on a CPU and
to 64k in bfloat16 on a GPU, are fitted by c + a * tokens + b * tokens squared, of which no part is below zero, least squares of relative
errors; the figure is the largest of those. Beside it stands the growth from the fewest tokens to the most over that of the model FLOPs,
which torch counts. On a CPU seconds are those of CPU time a thread, so what else the machine does takes none of them. Needs torch,
pydantic and PyYAML. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from benchmarks.dit_speed import Shape, flops_of, runs_of
from benchmarks.vae_speed import told
from components.models.sizes import DitSize

PATCH = (1, 2, 2)
SIZES = {
    "cpu": DitSize(128, 2, 2, PATCH, text_size=128, refiner_depth=0),
    "cuda": DitSize(1536, 4, 12, PATCH, text_size=1536, refiner_depth=0),
}
FRAMES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
QUICK_FRAMES = {"cpu": (1, 2, 4), "cuda": (1, 4, 16)}
RESIDUAL_BAR, GROWTH_BAR = 0.15, 1.5


def shape_of(device: str, frames: int) -> Shape:
    """Answers a clip of 1024 tokens a frame."""
    return Shape(SIZES[device], (16, frames, 64, 64), (128, 128))


def measured(device: str, frames: tuple[int, ...], repeats: int) -> dict[int, float]:
    """Answers the seconds of a step by the number of tokens, the least of several rounds; one before does not count."""
    steps: dict[int, Callable[[], Any]] = {}
    for count in frames:
        shape = shape_of(device, count)
        steps[shape.tokens] = runs_of("ours", shape, device, compiled=False).steps["training step"]
    laps: dict[int, list[float]] = {tokens: [] for tokens in steps}
    for _ in range(repeats + 1):
        for tokens, step in steps.items():
            began = _seconds(device)
            step()
            laps[tokens].append(_seconds(device) - began)
    return {tokens: min(found[1:]) for tokens, found in laps.items()}


def _seconds(device: str) -> float:
    return time.perf_counter() if device == "cuda" else time.process_time() / torch.get_num_threads()


def fitted(seconds: dict[int, float]) -> tuple[list[float], list[float]]:
    """Answers c, a and b of c + a * tokens + b * tokens ** 2, and each number's relative error.

    Least squares of what is no less than zero: the best of the fits of every choice of the three that leaves none below.
    """
    tokens, times = (torch.tensor(list(part), dtype=torch.float64) for part in (seconds.keys(), seconds.values()))
    powers = torch.stack([(tokens / tokens.max()) ** power for power in range(3)], dim=1) / times[:, None]  # of relative errors
    best: Tensor | None = None
    for kept in (choice for count in (1, 2, 3) for choice in combinations(range(3), min(count, len(tokens)))):
        solved = torch.linalg.lstsq(powers[:, list(kept)], torch.ones(len(tokens), 1, dtype=torch.float64)).solution[:, 0]
        parts = torch.zeros(3, dtype=torch.float64)
        parts[list(kept)] = solved
        if solved.min() >= 0 and (best is None or _misfit(powers, parts) < _misfit(powers, best)):
            best = parts
    assert best is not None  # a single power always fits with a part above zero
    scaled = best / tokens.max() ** torch.arange(3)
    return scaled.tolist(), (powers @ best - 1.0).tolist()


def _misfit(powers: Tensor, parts: Tensor) -> float:
    return float((powers @ parts - 1.0).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="fewer tokens")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frames = (QUICK_FRAMES if args.quick else FRAMES)[args.device]
    seconds = measured(args.device, frames, args.repeats)
    flops = {shape_of(args.device, count).tokens: flops_of(shape_of(args.device, count), args.device) for count in frames}
    (constant, linear, square), errors = fitted(seconds)
    figures = {}
    for (tokens, lap), error in zip(seconds.items(), errors, strict=True):
        print(f"{tokens:6d} tokens: {lap:8.3f} s, {3 * flops[tokens] / lap / 1e9:8.1f} GFLOP/s, the fit {error:+.1%}")
        figures[f"{tokens} tokens, seconds"] = told(lap)
        figures[f"{tokens} tokens, GFLOP a step"] = told(3 * flops[tokens] / 1e9)
    fewest, most = min(seconds), max(seconds)
    attention = square * most**2 / (constant + linear * most + square * most**2)
    print(f"{constant:.3g} s + {linear:.3g} s a token + {square:.3g} s a pair of tokens; at {most} tokens pairs take {attention:.0%}")
    residual, growth = max(abs(error) for error in errors), (seconds[most] / seconds[fewest]) / (flops[most] / flops[fewest])
    figures |= {
        "largest residual of the fit": told(residual) | {"bar": RESIDUAL_BAR, "holds": residual <= RESIDUAL_BAR},
        "growth of seconds over growth of FLOPs": told(growth) | {"bar": GROWTH_BAR, "holds": growth <= GROWTH_BAR},
        "share of attention's pairs at the most tokens": told(attention),
        "median GFLOP/s": told(statistics.median(3 * flops[tokens] / lap / 1e9 for tokens, lap in seconds.items())),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
