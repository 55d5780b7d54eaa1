"""Small parts of the video VAE: patches of space and time, a norm of each place by itself, a residual block."""

import torch.nn.functional as F
from torch import Tensor, nn

from components.models.causal_conv import CausalConv3d


def to_patches(clip: Tensor, frames: int, side: int) -> Tensor:
    """Cuts a clip into patches, `b c (t p) (h q) (w r) -> b t h w (c p q r)`.

    Args:
        clip: (B, C, T, H, W).
        frames: of a patch, p; side: of a patch in pixels, q and r.
    """
    batch, channels, t, h, w = clip.shape
    cut = clip.reshape(batch, channels, t // frames, frames, h // side, side, w // side, side)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, t // frames, h // side, w // side, channels * frames * side * side)


def from_patches(patches: Tensor, frames: int, side: int) -> Tensor:
    """Puts patches together again, `b t h w (c p q r) -> b c (t p) (h q) (w r)`."""
    batch, t, h, w, values = patches.shape
    channels = values // (frames * side * side)
    cut = patches.reshape(batch, t, h, w, channels, frames, side, side)
    return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, channels, t * frames, h * side, w * side)


def channels_last(x: Tensor) -> Tensor:
    """Answers (B, C, T, H, W) as (B, T, H, W, C); nothing is copied."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """Answers (B, T, H, W, C) as (B, C, T, H, W); nothing is copied."""
    return x.permute(0, 4, 1, 2, 3)


class PlaceNorm(nn.LayerNorm):
    """A layer norm over the channels of each place of each frame, so no frame knows of another."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(super().forward(channels_last(x)))  # (B, C, T, H, W)


class ResidualBlock(nn.Module):
    """Adds to x what a causal convolution sees around each place; starts as the identity."""

    def __init__(self, channels: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.norm = PlaceNorm(channels)
        self.look = CausalConv3d(channels, channels, kernel_size)
        self.mix = CausalConv3d(channels, channels, (1, 1, 1))
        zero_(self.mix)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.look(self.norm(x))))


def zero_(layer: nn.Module) -> None:
    """Sets all weights of a layer to zero, so that what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
