"""Frames as files hold them and clips as networks take them."""

import torch
from torch import Tensor


def to_pixels(frames: Tensor) -> Tensor:
    """Answers uint8 (B, T, H, W, 3) as (B, 3, T, H, W) in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def to_frames(clips: Tensor) -> Tensor:
    """Answers (B, 3, T, H, W), cut to [-1, 1], as uint8 (B, T, H, W, 3)."""
    return ((clips.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
