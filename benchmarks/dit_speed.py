"""How fast does the diffusion transformer train and sample beside diffusers' `WanTransformer3DModel` of the same shape?

Run: python -m benchmarks.dit_speed [--shape demo long] [--compile] [--precision float32 bfloat16] [--repeats 25] [--quick]
     python -m benchmarks.dit_speed --device cuda [--compile] [--batch-size 1] [--seconds 20] [--quick]

Both have the same width, depth, heads, feed-forward and patches, and see the same latents, timesteps and text, so as many tokens. A
training step is forward, backward, clipping and AdamW; a step of sampling is one forward pass in inference mode with and without the
prompt, five behind one another: ours reads the text in the first of them, as it does in the first of the 20 or 50 that samplers take. On
a CPU the two take turns, and what counts is the median of the pairs' ratios, in float32, as Kinora trains there, at two shapes: `demo` is
what the demo trains, 32 clips of three tokens with captions as wide as its captioner's, where Wan does more FLOPs, since it widens the
text; `long` is one clip of 1280 tokens and a text as wide as the model, at which both do the same work. On a GPU, in bfloat16, they run one
after the other at the shape of 1.3B parameters on clips of 17x480x832 (latents 5x60x104, 7800 tokens), with model FLOPs (counted by torch
in one forward pass, three times over for a training step) as a share of a matmul's rate in the same run, and peaks of memory. bfloat16 is
that of autocast, for both; on a GPU both sample with weights in bfloat16, as `load_dit` and `from_pretrained` have them, with nothing of a
training beside them. With `--compile` the blocks of both are compiled, each as its makers do it. The process is one as trainings are. Needs
torch, diffusers, pydantic and PyYAML. The last line is one JSON object.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.flops import counting
from benchmarks.trainer_environment import begin_as_training
from benchmarks.training_speed import matmul_rate
from benchmarks.vae_peers import million_parameters
from benchmarks.vae_speed import lasting, told
from components.diffusion.flow_matching import interpolate, velocity_loss
from components.models.dit import DiT
from components.models.precision import round_weights
from components.models.sizes import DIT_SIZES, DitSize
from components.models.text_refiner import KeptText
from components.train.optim import adamw_for, clip_gradients

BARS = {False: 1.25, True: 1.0}  # times the peer's rate, eager and compiled
MATMUL_BAR, MEMORY_BAR, PARAMETERS_APART = 0.5, 1.0, 0.05
TIME_STEPS = 1000.0  # of the peer's clock
LATENTS_FPS = 4.0
CLIPPED = 1e-2  # a norm that the gradients of both are longer than, so that both are clipped
PARTS = {"training step": 1, "sampling step": 5}  # and how many are taken one behind the other
AT_ONCE = 5  # steps on a GPU


@dataclass(frozen=True)
class Shape:
    """What both are built as, and what they see: latents (C, T, H, W) and text of (tokens, width)."""

    size: DitSize
    latents: tuple[int, int, int, int]
    text: tuple[int, int]
    batch_size: int = 1

    @property
    def tokens(self) -> int:
        lengths = zip(self.latents[1:], self.size.patch_size, strict=True)
        frames, rows, columns = (length // patch for length, patch in lengths)
        return frames * rows * columns


ON_CPU = {
    "demo": Shape(DIT_SIZES["demo"], (16, 3, 8, 8), (16, 128), batch_size=32),
    # the peer's text goes through two layers as wide as the model and no blocks; without a refiner ours does nearly the same
    "long": Shape(DitSize(512, 4, 8, (1, 2, 2), text_size=512, refiner_depth=0), (16, 5, 32, 32), (226, 512)),
}
GPU = Shape(DIT_SIZES["1.3b"], (16, 5, 60, 104), (512, 4096))


class Wan(nn.Module):
    """diffusers' `WanTransformer3DModel` with random weights, called as ours is."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size = shape.size
        self.net: Any = import_module("diffusers").WanTransformer3DModel(
            patch_size=size.patch_size,
            num_attention_heads=size.num_heads,
            attention_head_dim=size.hidden_size // size.num_heads,
            in_channels=shape.latents[0],
            out_channels=shape.latents[0],
            text_dim=shape.text[1],
            ffn_dim=round(size.mlp_ratio * size.hidden_size),
            num_layers=size.depth,
            cross_attn_norm=True,  # as published
        )

    def forward(
        self, noisy: Tensor, t: Tensor, text_embeds: Tensor, text_mask: None, latents_fps: float, step_cache: None = None, kept: Any = None
    ) -> Tensor:
        kind = self.net.patch_embedding.weight.dtype
        return self.net(noisy.to(kind), t * TIME_STEPS, text_embeds.to(kind), return_dict=False)[0]

    def round_weights(self) -> None:
        """Keeps weights in bfloat16, but for those that `from_pretrained(torch_dtype=torch.bfloat16)` leaves in float32."""
        kept = set(self.net._keep_in_fp32_modules)
        for name, parameter in self.net.named_parameters():
            if not kept & set(name.split(".")):
                parameter.data = parameter.data.to(torch.bfloat16)


@dataclass(frozen=True)
class Runs:
    """One of the two, ready to take steps.

    Attributes:
        steps: by the name of what it is a step of, that many of them which `PARTS` says.
    """

    model: nn.Module
    steps: dict[str, Callable[[], Any]]


def runs_of(name: str, shape: Shape, device: str, precision: str, compiled: bool = False) -> Runs:
    """Answers a model that is trained, and sampled with the weights that it is trained with."""
    model, inputs = new_model(name, shape, device, compiled), inputs_of(shape, device)
    steps = training_step(model, inputs, device, precision), sampling_steps(model, inputs, device, precision)
    return Runs(model, dict(zip(PARTS, steps, strict=True)))


def new_model(name: str, shape: Shape, device: str, compiled: bool = False) -> "Wan | DiT":
    torch.manual_seed(0)
    with torch.device(device):
        model = Wan(shape) if name == "wan" else DiT(shape.size, shape.latents[0], shape.text[1])
    if compiled:
        model.net.compile_repeated_blocks() if isinstance(model, Wan) else model.compile_blocks()
    return model


@dataclass(frozen=True)
class Inputs:
    """What a model sees: latents and noise (B, C, T, H, W), t (B,), and text (2 B, S, C), all of it text; the first half is the prompts."""

    latents: Tensor
    noise: Tensor
    t: Tensor
    embeds: Tensor


def inputs_of(shape: Shape, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(shape.batch_size, *shape.latents, generator=generator).to(device) for _ in range(2))
    embeds = torch.randn(2 * shape.batch_size, *shape.text, generator=generator).to(device)
    t = torch.rand(shape.batch_size, generator=generator).to(device)
    return Inputs(latents, noise, t, embeds)


def training_step(model: nn.Module, inputs: Inputs, device: str, precision: str) -> Callable[[], None]:
    optimizer, few = adamw_for(model, 1e-4), slice(len(inputs.t))

    def train() -> None:
        noisy = interpolate(inputs.latents, inputs.noise, inputs.t)
        with in_precision(device, precision):
            velocity = model(noisy, inputs.t, inputs.embeds[few], None, LATENTS_FPS)
        velocity_loss(velocity, inputs.latents, inputs.noise, inputs.t).mean().backward()
        clip_gradients(model.parameters(), CLIPPED)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def sampling_steps(model: nn.Module, inputs: Inputs, device: str, precision: str) -> Callable[[], None]:
    @torch.inference_mode()
    def sample() -> None:
        kept = KeptText()
        for _ in range(PARTS["sampling step"]):
            noise, t = torch.cat([inputs.noise, inputs.noise]), torch.cat([inputs.t, inputs.t])
            with in_precision(device, precision):
                with_text, without = model(noise, t, inputs.embeds, None, LATENTS_FPS, None, kept).chunk(2)
            torch.lerp(without, with_text, 4.0)

    return sample


def sampler_of(name: str, shape: Shape, device: str, compiled: bool) -> Callable[[], None]:
    """Answers steps of a model as it is loaded for a GPU: ours in mixed precision, the peer in what its weights are in."""
    model = new_model(name, shape, device, compiled).eval().requires_grad_(False)
    model.round_weights() if isinstance(model, Wan) else round_weights(model)
    return sampling_steps(model, inputs_of(shape, device), device, "float32" if name == "wan" else "bfloat16")


def in_precision(device: str, precision: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def laps_of(part: str, steps: Callable[[], Any], seconds: float) -> list[float]:
    """Answers a GPU's seconds a step, of several at a time: neither a training nor a sampler waits for the end of each."""

    def several() -> None:
        for _ in range(AT_ONCE // PARTS[part]):
            steps()
        torch.cuda.synchronize()

    return [lap / AT_ONCE for lap in lasting(several, seconds)]


def flops_of(shape: Shape, device: str, name: str = "ours", kept: KeptText | None = None) -> int:
    """Counts the model FLOPs of a forward pass of one batch.

    Args:
        kept: of a pass before; None: the text is read.
    """
    model = new_model(name, shape, device)
    noisy, t = torch.zeros(shape.batch_size, *shape.latents, device=device), torch.zeros(shape.batch_size, device=device)
    embeds = torch.zeros(shape.batch_size, *shape.text, device=device)
    with counting() as counter, torch.no_grad():
        model(noisy, t, embeds, None, LATENTS_FPS, None, kept)
    return int(counter.get_total_flops())


def flops_of_both(shape: Shape, device: str) -> dict[tuple[str, str], float]:
    """Counts those of each kind of step of ours and of the peer, which differ by what each makes of the text, and prints them."""
    flops: dict[tuple[str, str], float] = {}
    for name in ("ours", "wan"):
        kept, steps = KeptText(), PARTS["sampling step"]
        first, next_ = (flops_of(shape, device, name, kept) for _ in range(2))
        flops[name, "training step"] = 3.0 * first  # the way back is twice the way there
        flops[name, "sampling step"] = 2.0 * (first + (steps - 1) * next_) / steps  # guidance doubles
        print(f"{name}: {first / 1e9:.1f} GFLOP a forward pass, {next_ / 1e9:.1f} where the text is read")
    return flops


def in_turns(both: dict[str, Runs], part: str, repeats: int) -> dict[str, list[float]]:
    """Answers each one's seconds a step, in pairs that took turns to be first; one round before does not count."""
    laps: dict[str, list[float]] = {name: [] for name in both}
    for round_ in range(repeats + 1):
        for name in sorted(both, reverse=bool(round_ % 2)):
            began = time.perf_counter()
            both[name].steps[part]()
            laps[name].append((time.perf_counter() - began) / PARTS[part])
    return {name: found[1:] for name, found in laps.items()}


def on_cpu(shape: Shape, precisions: list[str], compiled: bool, repeats: int) -> dict[str, Any]:
    flops = flops_of_both(shape, "cpu")
    figures: dict[str, Any] = flops_figure(flops)
    for precision in precisions:
        rate = matmul_rate("cpu", getattr(torch, precision))
        print(f"{precision}: matmul {rate / 1e9:.0f} GFLOP/s")
        both = {name: runs_of(name, shape, "cpu", precision, compiled) for name in ("ours", "wan")}
        figures |= parameters_of({name: million_parameters(runs.model) for name, runs in both.items()})
        for part in PARTS:
            laps = in_turns(both, part, repeats)
            ratios = [wan / ours for ours, wan in zip(laps["ours"], laps["wan"], strict=True)]
            what = f"{part}, {precision}"
            for name, found in laps.items():
                figures |= step_figures(name, part, precision, statistics.median(found), shape, flops[name, part], rate)
            print(f"{what}: {statistics.median(ratios):.3f} times wan's rate, pairs from {min(ratios):.3f} to {max(ratios):.3f}")
            figures |= rate_figure(what, statistics.median(ratios), compiled)
    return figures


def on_gpu(shape: Shape, compiled: bool, seconds: float) -> dict[str, Any]:
    rate, flops = matmul_rate("cuda"), flops_of_both(shape, "cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: matmul {rate / 1e12:.3g} TFLOP/s")
    figures = {"matmul, TFLOP/s": told(rate / 1e12)} | flops_figure(flops)
    laps: dict[tuple[str, str], float] = {}
    peaks: dict[tuple[str, str], float] = {}
    sizes = {}
    for name, part in product(("ours", "wan"), PARTS):
        if part == "training step":
            model = new_model(name, shape, "cuda", compiled)
            sizes[name] = million_parameters(model)
            step = training_step(model, inputs_of(shape, "cuda"), "cuda", "bfloat16")
            del model
        else:
            step = sampler_of(name, shape, "cuda", compiled)
        step()  # compiles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        laps[name, part] = statistics.median(laps_of(part, step, seconds)[1:])
        peaks[name, part] = torch.cuda.max_memory_allocated() / 2**30
        figures |= step_figures(name, part, "bfloat16", laps[name, part], shape, flops[name, part], rate)
        figures[f"{name}, {part}, peak GiB"] = told(peaks[name, part])
        print(f"{name}, {part}: peak {peaks[name, part]:.2f} GiB", flush=True)
        del step
        gc.collect()
        torch.cuda.empty_cache()
    for part in PARTS:
        figures |= rate_figure(f"{part}, bfloat16", laps["wan", part] / laps["ours", part], compiled)
        memory = peaks["ours", part] / peaks["wan", part]
        figures[f"{part}, peak memory as a share of wan's"] = told(memory) | {"bar": MEMORY_BAR, "holds": memory <= MEMORY_BAR}
    share = figures["ours, training step, bfloat16, share of matmul"]
    share |= {"bar": MATMUL_BAR, "holds": share["value"] >= MATMUL_BAR}
    return figures | parameters_of(sizes)


def step_figures(name: str, part: str, precision: str, lap: float, shape: Shape, flops: float, rate: float) -> dict[str, Any]:
    tokens = shape.batch_size * shape.tokens * (2 if part == "sampling step" else 1)
    share = flops / lap / rate
    what = f"{name}, {part}, {precision}"
    print(f"{what}: {lap * 1e3:.1f} ms, {tokens / lap:.0f} tokens a second, {share:.1%} of matmul")
    return {f"{what}, tokens a second": told(tokens / lap), f"{what}, share of matmul": told(share)}


def flops_figure(flops: dict[tuple[str, str], float]) -> dict[str, Any]:
    return {f"{part}, wan's model FLOPs over ours": told(flops["wan", part] / flops["ours", part]) for part in PARTS}


def rate_figure(what: str, times: float, compiled: bool) -> dict[str, Any]:
    name = f"{what}, times wan's rate, {'compiled' if compiled else 'eager'}"
    return {name: told(times) | {"bar": BARS[compiled], "holds": times >= BARS[compiled]}}


def parameters_of(sizes: dict[str, float]) -> dict[str, Any]:
    apart = abs(sizes["ours"] / sizes["wan"] - 1)
    print(", ".join(f"{name}: {size:.2f} million parameters" for name, size in sizes.items()))
    return {f"{name}, million parameters": told(size) for name, size in sizes.items()} | {
        "parameters apart": told(apart) | {"bar": PARAMETERS_APART, "holds": apart <= PARAMETERS_APART}
    }


def _of_depth(shape: Shape, depth: int | None) -> Shape:
    """Answers a shape with so many layers, None: with its own, and prints it."""
    shape = shape if depth is None else replace(shape, size=replace(shape.size, depth=depth))
    print(f"{shape.tokens} tokens, batch {shape.batch_size}, {shape.size}")
    return shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of both, which takes minutes")
    parser.add_argument("--shape", nargs="+", choices=tuple(ON_CPU), default=list(ON_CPU), help="on a CPU")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="on a CPU")
    parser.add_argument("--repeats", type=int, default=25, help="pairs on a CPU")
    parser.add_argument("--batch-size", type=int, default=1, help="clips of a step on a GPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each kind of step on a GPU")
    parser.add_argument("--depth", type=int, help="of both; else 4 on a CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few repeats, of few layers")
    args = parser.parse_args()
    begin_as_training("benchmarks.dit_speed")
    torch.set_num_threads(args.threads)
    if args.device == "cuda":
        shape = _of_depth(replace(GPU, batch_size=args.batch_size), args.depth or (4 if args.quick else None))
        figures = on_gpu(shape, args.compile, 2.0 if args.quick else args.seconds)
    else:
        figures, repeats = {}, min(args.repeats, 2) if args.quick else args.repeats
        for name in args.shape:
            found = on_cpu(_of_depth(ON_CPU[name], args.depth or (2 if args.quick else None)), args.precision, args.compile, repeats)
            figures |= {f"{name}: {what}": figure for what, figure in found.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
