"""Is a clip in chunks and tiles what the whole is, and does the memory stay flat however long the file?

Run: python -m benchmarks.vae_streaming [--checkpoint FOLDER] [--seconds 60] [--quick]

Chunks: for each published compression at a small width, with no layer zero, every plan is encoded and decoded chunk by chunk, frame by
frame among them, and set beside the whole in float32. Memory: files of 256x256 and 17 to 257 frames pass through the VAE as
`kinora reconstruct` passes them, read from and written to disk, each in a process of its own; counted is the peak above what stood
before the first chunk. Tiles: real and synthetic frames of 512x512, in the smallest tiles of this VAE and as a whole. Memory and tiles take
the checkpoint, or else train one for some seconds. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.vae_peers import RECIPES, footage_folder, real_clips, train
from components.generate.reconstruct import reconstruct
from components.media.read import cover, read_frames
from components.media.write import write_stream
from components.models.pixels import to_pixels
from components.models.sizes import VAE_SIZES, VaeSize
from components.models.tiles import decode_stream, encode_stream, tile_of
from components.models.vae import VideoVae, load_vae, save_vae
from components.world.films import draw_film, recipe_for

CHUNKS_BAR, MEMORY_BAR, TILES_BAR = 1e-5, 0.10, 45.0
PUBLISHED = ("base", "long", "wide")
CHUNKED_FRAMES, CHUNKED_SIDE = 33, 64
LENGTHS, MEMORY_SIDE = (17, 33, 65, 129, 257), 256
TILED_FRAMES, TILED_SIDE = 9, 512


def narrow(size: VaeSize) -> VideoVae:
    """Answers a VAE of a size's compression and blocks, 16 wide, none of whose layers are zero."""
    torch.manual_seed(0)
    vae = VideoVae(replace(size, hidden_channels=16, encoder_channels=16))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    vae.set_normalisation(torch.randn(size.latent_channels), torch.rand(size.latent_channels) + 0.5)
    return vae.eval()


def plans(length: int, drawn: int) -> Iterator[list[int]]:
    """Yields ways to cut a length: all at once, one by one, equal chunks behind one or not, and so many drawn at random."""
    yield [length]
    for chunk in (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 32):
        if chunk < length:
            yield cut([chunk] * length, length)
            yield cut([1, *[chunk] * length], length)
    random = np.random.default_rng(0)
    for _ in range(drawn):
        yield cut(random.integers(1, 9, length).tolist(), length)


def cut(chunks: list[int], length: int) -> list[int]:
    """Takes chunks until they fill a length."""
    ends = np.minimum(np.cumsum(chunks), length)
    return [int(chunk) for chunk in np.diff(ends, prepend=0) if chunk]


@torch.no_grad()
def farthest(name: str, drawn: int) -> tuple[float, int]:
    """Answers how far any chunked encoding or decoding of a compression is from the whole, and how many plans were tried."""
    vae = narrow(VAE_SIZES[name])
    clip = torch.rand(1, 3, CHUNKED_FRAMES, CHUNKED_SIDE, CHUNKED_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = vae.encode(clip)
    whole = vae.decode(latents)
    worst, tried = 0.0, 0
    for plan in plans(clip.shape[2], drawn):
        worst, tried = max(worst, apart(encode_stream(vae, clip.split(plan, dim=2)), latents)), tried + 1
    for plan in plans(latents.shape[2], drawn):
        worst, tried = max(worst, apart(decode_stream(vae, latents.split(plan, dim=2)), whole)), tried + 1
    return worst, tried


def apart(chunks: Iterator[Tensor], whole: Tensor) -> float:
    return float((torch.cat(list(chunks), dim=2) - whole).abs().nan_to_num(torch.inf).max())


def moving(frames: int, side: int) -> Iterator[np.ndarray]:
    """Yields pictures of soft waves that wander, uint8 (H, W, 3)."""
    y, x = np.mgrid[:side, :side] / side
    for t in range(frames):
        waves = [np.sin(6.3 * (2 * x + y * (1 + c) + t / (20 + 10 * c))) + np.sin(40 * (x - y) + t / 5) for c in range(3)]
        yield (127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def resident(key: str) -> float:
    """Answers a memory figure of this process in MiB: `VmRSS` now, `VmHWM` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_of(checkpoint: Path, source: Path, target: Path) -> float:
    """Passes a file through the VAE and answers the peak of memory above what stood before, MiB."""
    vae = load_vae(checkpoint)
    Path("/proc/self/clear_refs").write_text("5")  # begins VmHWM anew
    before = resident("VmRSS")
    reconstruct(vae, source, target, Fraction(24))
    return resident("VmHWM") - before


def peaks(checkpoint: Path, folder: Path, lengths: tuple[int, ...], threads: int, repeats: int) -> dict[int, float]:
    """Measures each length several times, each in a process of its own, and answers the medians."""
    found = {}
    for frames in lengths:
        source = folder / f"{frames}.mp4"
        write_stream(source, moving(frames, MEMORY_SIDE), 24)
        command = [
            sys.executable,
            "-m",
            "benchmarks.vae_streaming",
            "--threads",
            str(threads),
            "--peak-of",
            str(source),
            str(folder / "out.mp4"),
        ]
        command += ["--checkpoint", str(checkpoint)]
        told = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
        found[frames] = statistics.median(float(line.split()[-1]) for line in told)
        print(f"{frames} frames: {found[frames]:.1f} MiB above what stood before the first chunk", flush=True)
    return found


def large_clips(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields so many clips of each kind, uint8 (9, 512, 512, 3): the middle of real files that are that large, and the synthetic world."""
    kept = 0
    for path in sorted((footage_folder() / "clips").iterdir()):
        if kept == count:
            break
        frames = list(islice(read_frames(path), TILED_FRAMES))
        if len(frames) == TILED_FRAMES and min(frames[0].height, frames[0].width) >= TILED_SIDE:
            height, width, _ = cover(frames[0].height, frames[0].width, TILED_SIDE, TILED_SIDE)
            y, x = (height - TILED_SIDE) // 2, (width - TILED_SIDE) // 2
            yield "real", np.stack([frame.resized(height, width)[y : y + TILED_SIDE, x : x + TILED_SIDE] for frame in frames])
            kept += 1
    for seed in range(count):
        film, _ = draw_film(recipe_for("rich", seed, scenes=1, height=TILED_SIDE, width=TILED_SIDE, frames_per_scene=(9, 9)))
        yield "synthetic", film[:TILED_FRAMES]


@torch.no_grad()
def seams(vae: VideoVae, count: int) -> dict[str, float]:
    """Answers, by kind of clip, the lowest PSNR in dB of what tiles reconstruct against what the whole picture does."""
    found: dict[str, float] = {}
    tile = tile_of(vae, 0)
    for kind, frames in large_clips(count):
        clip = to_pixels(torch.from_numpy(frames)[None])
        whole = vae.decode(vae.encode(clip)).clamp(-1, 1)
        tiled = torch.cat(list(decode_stream(vae, encode_stream(vae, [clip], tile), tile)), dim=2).clamp(-1, 1)
        likeness = float(10 * torch.log10(4 / (tiled - whole).square().mean().clamp(min=1e-12)))
        print(f"{kind}: tiles of {tile} places beside the whole {likeness:.1f} dB")
        found[kind] = min(likeness, found.get(kind, likeness))
    return found


def checked(value: float, bar: float, holds: bool) -> dict[str, Any]:
    return {"value": float(f"{value:.4g}"), "bar": bar, "holds": holds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="ours, as `vae_quality` wrote it")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training where no checkpoint is given")
    parser.add_argument("--quick", action="store_true", help="few plans, two lengths, some seconds of training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peak-of", nargs=2, type=Path, help=argparse.SUPPRESS)  # what `peaks` starts
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_of(args.checkpoint, *args.peak_of))
        return
    figures = {}
    for name in PUBLISHED:
        worst, tried = farthest(name, 3 if args.quick else 30)
        print(f"{name}: {tried} plans, at most {worst:.2g} from the whole")
        figures[f"chunks, {name}"] = checked(worst, CHUNKS_BAR, worst <= CHUNKS_BAR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = args.checkpoint or folder / "vae"
        if not args.checkpoint:
            clips, _ = real_clips(per_file=2, files=4 if args.quick else None)
            save_vae(
                checkpoint, train(RECIPES["ours"], RECIPES["ours"].learning_rates[0], clips, 5 if args.quick else args.seconds).model, {}
            )
        found = peaks(checkpoint, folder, (LENGTHS[0], LENGTHS[-1]) if args.quick else LENGTHS, args.threads, 1 if args.quick else 3)
        growth = max(found.values()) / found[LENGTHS[0]] - 1
        figures["memory, growth from 17 to 257 frames"] = checked(growth, MEMORY_BAR, growth <= MEMORY_BAR)
        figures |= {
            f"memory, {frames} frames, MiB": {"value": round(peak, 1), "bar": None, "holds": None} for frames, peak in found.items()
        }
        for kind, likeness in seams(load_vae(checkpoint), 1 if args.quick else 4).items():
            figures[f"tiles, {kind}, dB"] = checked(likeness, TILES_BAR, likeness >= TILES_BAR)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
