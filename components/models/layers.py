"""Small parts of the video VAE: patches of space and time, a norm of each place by itself, residual blocks in a row."""

from collections.abc import Sequence

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


def check_sides(clip: Tensor, side: int) -> None:
    """Looks whether patches of `side` pixels fill the frames of a clip.

    Raises:
        ValueError: no clip (B, 3, T, H, W), or a side that does not fit; the nearest that does is named.
    """
    if clip.ndim != 5 or clip.shape[1] != 3:
        raise ValueError(f"a clip is (B, 3, T, H, W), not {tuple(clip.shape)}")
    for name, value in zip(("height", "width"), clip.shape[-2:], strict=True):
        if value % side or not value:
            nearest = max(side, round(value / side) * side)
            raise ValueError(f"a {name} of {value} is not a multiple of {side}; the nearest is {nearest}")


def check_length(num_frames: int, period: int) -> None:
    """Looks whether a clip has 1 + a multiple of `period` frames.

    Raises:
        ValueError: it has not; the nearest numbers that do are named.
    """
    if num_frames < 1 or (num_frames - 1) % period:
        below = max(0, num_frames - 1) // period * period + 1
        raise ValueError(f"a clip of {num_frames} frames does not fit; the nearest are {below} and {below + period}")


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
        return self.stream(x, None)[0]

    def stream(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Passes the next frames (B, C, T, H, W) through, and answers with them what the next call looks back at."""
        seen, left = self.look.stream(self.norm(x), past)
        return x + self.mix(F.silu(seen)), left


class CausalNet(nn.Sequential):
    """Residual blocks in a row, then a norm."""

    def __init__(self, channels: int, num_blocks: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__(*(ResidualBlock(channels, kernel_size) for _ in range(num_blocks)), PlaceNorm(channels), nn.SiLU())

    def stream(self, x: Tensor, pasts: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Passes the next frames (B, C, T, H, W) through.

        Args:
            pasts: what the call before answered, a tensor a block; None begins the clip.
        """
        left: list[Tensor] = []
        for place, block in enumerate(module for module in self if isinstance(module, ResidualBlock)):
            x, past = block.stream(x, None if pasts is None else pasts[place])
            left.append(past)
        return self[-1](self[-2](x)), left


def zero_(layer: nn.Module) -> None:
    """Sets all weights of a layer to zero, so that what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
