"""How close to the machine's matmul rate do the training steps of the VAE and the diffusion transformer run, and in what memory?

Run: python -m benchmarks.training_speed [--device cuda] [--profile gpu] [--set dit.batch_size=N] [--seconds 30] [--quick]

Both run the loops that Ray Train calls, at a profile's settings, on random clips and latents of its shape; needs torch, pydantic
and PyYAML alone. Model FLOPs are counted by torch in one forward pass and taken three times (once for the way there, twice for
the way back; what is computed again counts as nothing). The matmul rate is that of 8192 x 8192 matrices, bfloat16 on a GPU and
1024 x 1024 in float32 on a CPU, measured in the same run. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.flops import counting
from benchmarks.trainer_environment import begin_as_training
from components.config import load_config
from components.models.dit import DiT
from components.models.precision import mixed_precision
from components.models.vae import VideoVae
from components.sections import Config
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.dit_draws import DitBatch
from components.train.dit_loop import train_dit
from components.train.vae_loop import ClipBatch, train_vae

TEXT_TOKENS, TEXT_WIDTH = 32, 512
BARS: dict[str, dict[str, float | None]] = {"cuda": {"dit": 0.35, "vae": 0.15}, "cpu": {"dit": None, "vae": None}}
QUICK = {"laptop": [], "gpu": ["dit.size.depth=4", "dit.batch_size=4", "vae.batch_size=4"]}


class Timed:
    """Batches of one random batch, with the time between them taken; training ends when the time is up."""

    def __init__(self, batch: Any, device: str, seconds: float) -> None:
        self.batch, self.device, self.seconds = batch, device, seconds
        self.laps: list[float] = []

    def __call__(self, first: int) -> Iterator[Any]:
        begin = last = time.perf_counter()
        while time.perf_counter() - begin < self.seconds or len(self.laps) < 4:
            yield self.batch
            if self.device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.laps.append(now - last)
            last = now

    @property
    def step_seconds(self) -> float:
        return statistics.median(self.laps[2:])  # the first steps make room and choose kernels


def matmul_rate(device: str, kind: torch.dtype | None = None) -> float:
    """Answers FLOP/s of a large matrix product, the best of several; in bfloat16 on a GPU and float32 on a CPU where no kind is given."""
    side, usual = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    kind = kind or usual
    a, b = torch.randn(side, side, device=device, dtype=kind), torch.randn(side, side, device=device, dtype=kind)
    found = []
    for _ in range(12):
        begin = time.perf_counter()
        for _ in range(10):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(10 * 2 * side**3 / (time.perf_counter() - begin))
    return max(found)


def flops_of(model: nn.Module, device: str, *inputs: torch.Tensor) -> int:
    with counting() as counter, torch.no_grad(), mixed_precision(device):
        model(*inputs)
    return int(counter.get_total_flops())


def dit_speed(config: Config, device: str, seconds: float, folder: Path) -> dict[str, float]:
    clip, settings = config.clip, config.dit
    shape = VideoVae(config.vae.size).latents_shape(clip.num_frames, clip.height, clip.width)
    torch.manual_seed(0)
    model = DiT(settings.size, shape[0], TEXT_WIDTH).to(device)
    model.recompute = settings.recompute_activations
    count = settings.batch_size
    latents = torch.randn(count, *shape)
    batch = DitBatch(
        latents,
        torch.randn(count, TEXT_TOKENS, TEXT_WIDTH),
        torch.ones(count, TEXT_TOKENS, dtype=torch.bool),
        tuple(f"clip{i}" for i in range(count)),
        torch.full((count,), clip.fps / config.vae.size.temporal_compression_ratio),
    )
    one = flops_of(
        model,
        device,
        latents[:1].to(device),
        torch.full((1,), 0.5, device=device),
        batch.text_embeds[:1].to(device),
        batch.text_mask[:1].to(device),
        torch.ones(1, device=device),
    )
    timed = Timed(batch, device, seconds)
    run(lambda context: train_dit(settings, model, timed, torch.zeros(2, TEXT_WIDTH), Checkpoints(folder), context), device, folder)
    return {"clip_flops": one, "batch": count, "step_seconds": timed.step_seconds, **size_and_memory(model, device)}


def vae_speed(config: Config, device: str, seconds: float, folder: Path) -> dict[str, float]:
    clip, settings = config.clip, config.vae
    side = min(settings.crop_size, clip.height, clip.width)
    torch.manual_seed(0)
    model = VideoVae(settings.size).to(device)
    frames = torch.randint(0, 256, (settings.batch_size, clip.num_frames, clip.height, clip.width, 3), dtype=torch.uint8)
    one = flops_of(model, device, torch.randn(1, 3, clip.num_frames, side, side, device=device))
    timed = Timed(ClipBatch(frames, tuple(f"clip{i}" for i in range(len(frames)))), device, seconds)
    run(lambda context: train_vae(settings, model, timed, Checkpoints(folder), context), device, folder)
    return {"clip_flops": one, "batch": len(frames), "step_seconds": timed.step_seconds, **size_and_memory(model, device)}


def run(train: Callable[[TrainContext], Any], device: str, folder: Path) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    train(TrainContext.local(folder, device, torch.get_num_threads()))


def size_and_memory(model: nn.Module, device: str) -> dict[str, float]:
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"million_parameters": round(millions, 1), "peak_gib": round(peak, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", help="else gpu on a GPU and laptop on a CPU")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training each model")
    parser.add_argument("--quick", action="store_true", help="a smaller transformer, a few seconds each")
    args = parser.parse_args()
    begin_as_training("benchmarks.training_speed")
    device, profile = args.device, args.profile or ("gpu" if args.device == "cuda" else "laptop")
    never = [f"{section}.{name}=1000000000" for section in ("dit", "vae") for name in ("steps", "checkpoint_every")]
    quick = QUICK.get(profile, []) if args.quick else []
    config = load_config(profile, [*quick, *args.overrides, *never])
    if device == "cpu":
        torch.set_num_threads(config.cluster.threads)
    rate = matmul_rate(device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{name}, torch {torch.__version__}: matmul {rate / 1e12:.3g} TFLOP/s")
    figures: dict[str, Any] = {"matmul_tflops": {"value": round(rate / 1e12, 3), "bar": None, "holds": None}}
    for part, measure in (("dit", dit_speed), ("vae", vae_speed)):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(config, device, 5.0 if args.quick else args.seconds, Path(folder))
        share = 3 * found["clip_flops"] * found["batch"] / found["step_seconds"] / rate
        bar = BARS[device][part]
        print(f"{part}: {share:.1%} of matmul, {found['batch'] / found['step_seconds']:.4g} clips a second, {found}")
        figures[f"{part}_share_of_matmul"] = {"value": round(share, 4), "bar": bar, "holds": None if bar is None else share >= bar}
        figures[f"{part}_clips_per_second"] = {"value": round(found["batch"] / found["step_seconds"], 3), "bar": None, "holds": None}
        figures[f"{part}_peak_gib"] = {"value": found["peak_gib"], "bar": None, "holds": None}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
