"""Latents cut into spacetime patches, a token each, and put together again."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def token_grid(lengths: torch.Size | tuple[int, ...], patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Answers how many tokens latents of (frames, height, width) make along each axis, rounded up."""
    frames, rows, columns = (math.ceil(length / patch) for length, patch in zip(lengths, patch_size, strict=True))
    return frames, rows, columns


def pad_to_patches(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Adds zeros behind each axis of (B, C, T, H, W) up to whole patches."""
    pads = [-length % patch for length, patch in zip(latents.shape[2:], patch_size, strict=True)]
    return F.pad(latents, (0, pads[2], 0, pads[1], 0, pads[0])) if any(pads) else latents


def patchify(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Cuts latents into tokens: b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)."""
    (pt, ph, pw), (batch, channels, frames, height, width) = patch_size, latents.shape
    split = latents.view(batch, channels, frames // pt, pt, height // ph, ph, width // pw, pw)
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> Tensor:
    """Puts tokens together again: b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)."""
    (pt, ph, pw), (frames, rows, columns) = patch_size, grid
    split = tokens.view(len(tokens), frames, rows, columns, -1, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return split.reshape(len(tokens), -1, frames * pt, rows * ph, columns * pw)
