"""What must hold of a video VAE for any clip: it does not look ahead, and chunks and tiles are like the whole.

Differences are of latents in units of their standard deviation, and of pixels as shares of their range of 2, whichever is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.measure.distortion import MAX_PSNR
from components.models.pixels import to_pixels
from components.models.tiles import StreamingVae, decode_stream, encode_stream, tile_of

SEAM_CLIPS = 2  # of those that are checked; tiles take long
PLANS = ((1,), (4,), (1, 4), (3, 5))  # frames of the chunks, over and over


@dataclass(frozen=True)
class Checked:
    """What was found of clips, one entry each.

    Attributes:
        lookahead: how far what is shown so far changes when another future follows.
        chunks: how far a clip in chunks is from the clip as a whole, at the worst of several plans.
        seam_psnr: of a few of them, their picture in tiles against the picture as a whole, dB; no higher than `MAX_PSNR`.
    """

    lookahead: list[float]
    chunks: list[float]
    seam_psnr: list[float]


@torch.inference_mode()
def check_vae(vae: StreamingVae, frames: Sequence[np.ndarray], device: str = "cpu") -> Checked:
    """Checks clips, each uint8 (T, H, W, 3) of a shape that the VAE can encode."""
    found = Checked([], [], [])
    in_tiles = range(0, len(frames), max(1, len(frames) // SEAM_CLIPS))[:SEAM_CLIPS]
    for number, one in enumerate(frames):
        clip = to_pixels(torch.from_numpy(np.ascontiguousarray(one)).to(device)[None])
        latents = vae.encode(clip)
        back = vae.decode(latents)
        found.lookahead.append(_lookahead(vae, clip, latents, back))
        found.chunks.append(_chunks(vae, clip, latents, back))
        if number in in_tiles:
            found.seam_psnr.append(_seam_psnr(vae, clip))
    return found


def _lookahead(vae: StreamingVae, clip: Tensor, latents: Tensor, back: Tensor) -> float:
    """Compares the first part of a clip that goes on as it does with one that goes on in the clip's negative, played backwards."""
    kept = (latents.shape[2] + 1) // 2
    shown = 1 + (kept - 1) * vae.frames
    other = torch.cat([clip[:, :, :shown], -clip.flip(2)[:, :, : clip.shape[2] - shown]], dim=2)
    other_latents = vae.encode(other)
    other_back = vae.decode(torch.cat([latents[:, :, :kept], other_latents[:, :, kept:]], dim=2))
    return _difference(latents[:, :, :kept], other_latents[:, :, :kept], back[:, :, :shown], other_back[:, :, :shown])


def _chunks(vae: StreamingVae, clip: Tensor, latents: Tensor, back: Tensor) -> float:
    worst = 0.0
    for plan in PLANS:
        coded = torch.cat(list(encode_stream(vae, clip.split(_lengths(plan, clip.shape[2]), dim=2))), dim=2)
        decoded = torch.cat(list(decode_stream(vae, latents.split(_lengths(plan, latents.shape[2]), dim=2))), dim=2)
        worst = max(worst, _difference(latents, coded, back, decoded))
    return worst


def _lengths(plan: Sequence[int], total: int) -> list[int]:
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(min(plan[len(lengths) % len(plan)], total - sum(lengths)))
    return lengths


def _seam_psnr(vae: StreamingVae, clip: Tensor) -> float:
    """Passes the clip's first frames, mirrored until they need three of the smallest tiles a side, in tiles and as a whole."""
    tile = tile_of(vae, 1)
    wide = clip[:, :, : 1 + vae.period]
    for axis in (-2, -1):
        while wide.shape[axis] < 2 * tile * vae.side:
            wide = torch.cat([wide, wide.flip(axis)], dim=axis)
        wide = wide.narrow(axis, 0, 2 * tile * vae.side)
    latents = torch.cat(list(encode_stream(vae, [wide])), dim=2)
    whole = torch.cat(list(decode_stream(vae, [latents])), dim=2)
    tiled = torch.cat(list(decode_stream(vae, encode_stream(vae, [wide], tile), tile)), dim=2)
    error = float((whole - tiled).square().mean())
    return min(MAX_PSNR, 10.0 * math.log10(4.0 / error)) if error > 0 else MAX_PSNR


def _difference(latents: Tensor, other_latents: Tensor, pixels: Tensor, other_pixels: Tensor) -> float:
    return max(float((latents - other_latents).abs().max()), float((pixels - other_pixels).abs().max()) / 2.0)
