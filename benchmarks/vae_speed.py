"""How fast does the video VAE encode and decode beside diffusers' `AutoencoderKLWan` of the same compression and size?

Run: python -m benchmarks.vae_speed [--checkpoint FOLDER] [--repeats 15] [--quick]
     python -m benchmarks.vae_speed --device cuda [--batch-size 4] [--seconds 20] [--quick]

On a CPU: frames a second of clips of 17x128x128 in float32, the two in turns, medians. Ours has the configuration of `vae_quality`, and
its checkpoint where one is given. On a GPU: the training step on clips of 17x256x256 in bfloat16, its model FLOPs (counted by torch in
one forward pass, three times over) as a share of a matmul's rate in the same run, and the peak of memory, each beside Wan's. Needs
torch, diffusers, pydantic and PyYAML. The last line is one JSON object.
"""

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.vae_peers import FRAMES, OURS, SIDE, million_parameters, new_model, settings_of
from components.models.precision import mixed_precision
from components.models.vae import load_vae
from components.train.optim import clip_gradients, muon_for, update_ema
from components.train.vae_loop import ADAMW
from components.train.vae_losses import vae_losses

SPEED_BAR, PARAMETERS_APART = 2.5, 0.05
TRAINED_SIDE = 256
PARTS = ("encode", "decode")


def models(checkpoint: Path | None) -> dict[str, Any]:
    """Answers both, ours from its checkpoint or new.

    Raises:
        SystemExit: the checkpoint is of another size.
    """
    torch.manual_seed(0)
    ours = load_vae(checkpoint) if checkpoint else new_model(wan=False)
    if ours.size != OURS:
        raise SystemExit(f"`{checkpoint}` is not of the size that is measured; hint: one that `vae_quality --checkpoint` wrote")
    return {"ours": ours, "wan": new_model(wan=True)}


@torch.no_grad()
def alternated(both: dict[str, Any], repeats: int) -> dict[str, dict[str, float]]:
    """Answers each model's median seconds to encode and to decode one clip; one round before does not count."""
    clip = torch.rand(1, 3, FRAMES, SIDE, SIDE) * 2 - 1
    laps: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in both}
    for _ in range(repeats + 1):
        for name, model in both.items():
            begin = time.perf_counter()
            latents = model.encode(clip)
            middle = time.perf_counter()
            model.decode(latents)
            laps[name]["encode"].append(middle - begin)
            laps[name]["decode"].append(time.perf_counter() - middle)
    return {name: {part: statistics.median(found[1:]) for part, found in parts.items()} for name, parts in laps.items()}


def on_cpu(both: dict[str, Any], repeats: int) -> dict[str, Any]:
    seconds = alternated({name: model.eval() for name, model in both.items()}, repeats)
    figures: dict[str, Any] = {}
    for name, parts in seconds.items():
        rates = {part: FRAMES / parts[part] for part in PARTS} | {"encode plus decode": FRAMES / sum(parts.values())}
        print(f"{name}: " + ", ".join(f"{part} {rate:.1f} frames a second" for part, rate in rates.items()))
        figures |= {f"{name}, {part}, frames a second": told(rate) for part, rate in rates.items()}
    times = sum(seconds["wan"].values()) / sum(seconds["ours"].values())
    return figures | {"encode plus decode, times wan's rate": told(times) | {"bar": SPEED_BAR, "holds": times >= SPEED_BAR}}


def on_gpu(both: dict[str, Any], batch_size: int, seconds: float) -> dict[str, Any]:
    rate = matmul_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: matmul {rate / 1e12:.3g} TFLOP/s")
    figures = {"matmul, TFLOP/s": told(rate / 1e12)}
    peaks = {}
    for name in list(both):
        model = both.pop(name).cuda().train().requires_grad_()
        flops = flops_of(model)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        lap = step_seconds(model, batch_size, seconds)
        peaks[name] = torch.cuda.max_memory_allocated() / 2**30
        share = 3 * flops * batch_size / lap / rate
        print(f"{name}: step {lap * 1e3:.1f} ms, {share:.1%} of matmul, peak {peaks[name]:.2f} GiB, {flops / 1e9:.1f} GFLOP a clip forward")
        figures[f"{name}, training step, share of matmul"] = told(share)
        figures[f"{name}, training step, clips a second"] = told(batch_size / lap)
        figures[f"{name}, training step, peak GiB"] = told(peaks[name])
        del model
        torch.cuda.empty_cache()
    return figures | {"training step, peak memory as a share of wan's": told(peaks["ours"] / peaks["wan"])}


def flops_of(model: Any) -> int:
    """Counts the FLOPs of one clip's forward pass."""
    clip = torch.zeros(1, 3, FRAMES, TRAINED_SIDE, TRAINED_SIDE, device="cuda")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), mixed_precision("cuda"):
        model(clip)
    return int(counter.get_total_flops())


def step_seconds(model: Any, batch_size: int, seconds: float) -> float:
    """Answers the median time of a whole training step, as the loop of `train_vae` takes it."""
    settings = settings_of(TRAINED_SIDE)
    average, optimizer = copy.deepcopy(model).requires_grad_(False), muon_for(model, 1e-4, adamw=ADAMW)
    clips = torch.rand(batch_size, 3, FRAMES, TRAINED_SIDE, TRAINED_SIDE, device="cuda") * 2 - 1
    noise = torch.randn(batch_size, *model.latents_shape(*clips.shape[2:]), device="cuda")

    def step() -> None:
        with mixed_precision("cuda"):
            passed = model(clips, noise)
        losses, _ = vae_losses(settings, clips, passed)
        losses.mean().backward()
        clip_gradients(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        update_ema(average, model, settings.ema_decay, 1)
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    return statistics.median(lasting(step, seconds)[2:])  # the first ones choose kernels


def lasting(step: Callable[[], None], seconds: float) -> list[float]:
    begin = time.perf_counter()
    laps: list[float] = []
    while time.perf_counter() - begin < seconds or len(laps) < 4:
        started = time.perf_counter()
        step()
        laps.append(time.perf_counter() - started)
    return laps


def matmul_rate(side: int = 8192) -> float:
    """Answers FLOP/s of a large product in bfloat16, the best of several."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()

    return 10 * 2 * side**3 / min(lasting(product, 1.0))


def told(value: float) -> dict[str, Any]:
    return {"value": float(f"{value:.4g}"), "bar": None, "holds": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="ours, as `vae_quality` wrote it")
    parser.add_argument("--repeats", type=int, default=15, help="on a CPU")
    parser.add_argument("--batch-size", type=int, default=4, help="on a GPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training each on a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    both = models(args.checkpoint)
    sizes = {name: million_parameters(model) for name, model in both.items()}
    apart = abs(sizes["ours"] / sizes["wan"] - 1)
    print(", ".join(f"{name}: {size:.2f} million parameters" for name, size in sizes.items()))
    figures = {f"{name}, million parameters": told(size) for name, size in sizes.items()}
    figures["parameters apart"] = told(apart) | {"bar": PARAMETERS_APART, "holds": apart <= PARAMETERS_APART}
    if args.device == "cuda":
        figures |= on_gpu(both, args.batch_size, 3.0 if args.quick else args.seconds)
    else:
        figures |= on_cpu(both, 3 if args.quick else args.repeats)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
