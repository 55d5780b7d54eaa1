"""Does a training step of the diffusion transformer cost what its tokens predict: a part in proportion to them, attention to their square?

Run: python -m benchmarks.dit_scaling [--repeats 3] [--quick]
     python -m benchmarks.dit_scaling --device cuda [--quick]

Seconds of a step (forward, backward, clipping, AdamW) of one clip of 1024 tokens a frame, from 1k to 16k tokens in float32 on a CPU and
to 64k in bfloat16 on a GPU, are fitted by c + a * tokens + b * tokens squared, of which no part is below zero, least squares of relative
errors; the figure is the largest of those. What the fit gives to pairs of tokens at the most of them stands beside what torch's attention
takes alone, forward and backward, with as many tokens, heads and layers, and may be neither far more nor far less: the step of a model that
attends to some tokens alone, or does something else to their square, would not be there. Beside it stand the growth from the fewest tokens
to the most over that of the model FLOPs, which torch counts, and how far two workers on CPUs that share out the tokens of a clip are from
one in their answer and gradients, relative to the largest of each. On a CPU seconds are those of CPU time a thread, so what else the
machine does takes none of them.
Needs torch, pydantic and PyYAML. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.dit_speed import LATENTS_FPS, Shape, flops_of, runs_of
from benchmarks.trainer_environment import begin_as_training
from benchmarks.vae_speed import told
from components.models.dit import DiT
from components.models.sequence_parallel import SequenceGroup
from components.models.sizes import DitSize

PATCH = (1, 2, 2)
SIZES = {
    "cpu": DitSize(128, 2, 2, PATCH, text_size=128, refiner_depth=0),
    "cuda": DitSize(1536, 4, 12, PATCH, text_size=1536, refiner_depth=0),
}
FRAMES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
QUICK_FRAMES = {"cpu": (1, 2, 4, 8), "cuda": (1, 2, 4, 8, 16)}
RESIDUAL_BAR, GROWTH_BAR, APART_BAR = 0.15, 1.5, 1e-4
PAIRS_BARS = (0.67, 1.5)  # the least and the most
WORKERS = 2


def shape_of(device: str, frames: int) -> Shape:
    """Answers a clip of 1024 tokens a frame."""
    return Shape(SIZES[device], (16, frames, 64, 64), (128, 128))


def steps_of(device: str, frames: tuple[int, ...]) -> dict[int, Callable[[], Any]]:
    """Answers steps of training by the number of tokens."""
    shapes = [shape_of(device, count) for count in frames]
    return {shape.tokens: runs_of("ours", shape, device, precision_of(device)).steps["training step"] for shape in shapes}


def attention_of(device: str, tokens: int) -> Callable[[], Any]:
    """Answers torch's attention of one layer among so many tokens, there and back."""
    size = SIZES[device]
    sides = 1, size.num_heads, tokens, size.hidden_size // size.num_heads
    query, key, value, gradient = (torch.randn(sides, device=device, dtype=getattr(torch, precision_of(device))) for _ in range(4))

    def step() -> None:
        q, k, v = (part.detach().requires_grad_() for part in (query, key, value))
        torch.nn.functional.scaled_dot_product_attention(q, k, v).backward(gradient)

    return step


def precision_of(device: str) -> str:
    return "bfloat16" if device == "cuda" else "float32"


def measured(device: str, steps: dict[int, Callable[[], Any]], repeats: int) -> dict[int, float]:
    """Answers the seconds of a step by the number of tokens, the least of several rounds; one before does not count."""
    laps: dict[int, list[float]] = {tokens: [] for tokens in steps}
    for _ in range(repeats + 1):
        for tokens, step in steps.items():
            began = _seconds(device)
            step()
            if device == "cuda":
                torch.cuda.synchronize()
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


def apart_on_two_workers() -> float:
    """Answers the largest difference of the velocity and of any gradient, over the largest of that kind, of two workers from one."""
    expected = answered(None)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_worker, (folder,), nprocs=WORKERS)
        found = [load_file(Path(folder) / f"{rank}.safetensors") for rank in range(WORKERS)]
    return max(
        float((of_worker[name] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for of_worker in found
        for name, value in expected.items()
    )


def answered(workers: SequenceGroup | None) -> dict[str, Tensor]:
    """Answers the velocity of a clip and the gradients of the mean of its square."""
    shape = shape_of("cpu", 2)
    torch.manual_seed(0)
    model = DiT(shape.size, shape.latents[0], shape.text[1])
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.02)
    model.sequence = workers
    noisy, t, embeds = torch.randn(1, *shape.latents), torch.rand(1), torch.randn(1, *shape.text)
    velocity = model(noisy, t, embeds, torch.ones(embeds.shape[:2], dtype=torch.bool), LATENTS_FPS)
    velocity.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    if workers is not None:  # as DDP takes the mean of its workers' gradients
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= workers.size
    return {"velocity": velocity.detach(), **gradients}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    save_file(
        {name: value.contiguous() for name, value in answered(SequenceGroup(rank, WORKERS)).items()}, Path(folder) / f"{rank}.safetensors"
    )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="fewer tokens")
    args = parser.parse_args()
    begin_as_training("benchmarks.dit_scaling")
    torch.set_num_threads(args.threads)
    frames = (QUICK_FRAMES if args.quick else FRAMES)[args.device]
    seconds = measured(args.device, steps_of(args.device, frames), args.repeats)
    flops = {shape_of(args.device, count).tokens: flops_of(shape_of(args.device, count), args.device) for count in frames}
    (constant, linear, square), errors = fitted(seconds)
    figures = {}
    for (tokens, lap), error in zip(seconds.items(), errors, strict=True):
        print(f"{tokens:6d} tokens: {lap:8.3f} s, {3 * flops[tokens] / lap / 1e9:8.1f} GFLOP/s, the fit {error:+.1%}")
        figures[f"{tokens} tokens, seconds"] = told(lap)
        figures[f"{tokens} tokens, GFLOP a step"] = told(3 * flops[tokens] / 1e9)
    fewest, most = min(seconds), max(seconds)
    (alone,) = measured(args.device, {most: attention_of(args.device, most)}, args.repeats).values()
    attention = square * most**2 / (constant + linear * most + square * most**2)
    pairs = square * most**2 / (SIZES[args.device].depth * alone)
    print(f"{constant:.3g} s + {linear:.3g} s a token + {square:.3g} s a pair of tokens; at {most} tokens pairs take {attention:.0%}")
    print(f"attention alone takes {alone:.3g} s a layer there; what the fit gives to pairs is {pairs:.2f} times that of all layers")
    residual, growth = max(abs(error) for error in errors), (seconds[most] / seconds[fewest]) / (flops[most] / flops[fewest])
    figures |= {
        "largest residual of the fit": told(residual) | {"bar": RESIDUAL_BAR, "holds": residual <= RESIDUAL_BAR},
        "growth of seconds over growth of FLOPs": told(growth) | {"bar": GROWTH_BAR, "holds": growth <= GROWTH_BAR},
        "seconds of pairs over those of attention alone": told(pairs)
        | {"bar": list(PAIRS_BARS), "holds": PAIRS_BARS[0] <= pairs <= PAIRS_BARS[1]},
        "share of attention's pairs at the most tokens": told(attention),
        "median GFLOP/s": told(statistics.median(3 * flops[tokens] / lap / 1e9 for tokens, lap in seconds.items())),
    }
    apart = apart_on_two_workers()
    print(f"two workers that share out a clip's tokens are at most {apart:.2g} from one")
    figures["two workers from one, at most"] = told(apart) | {"bar": APART_BAR, "holds": apart <= APART_BAR}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
