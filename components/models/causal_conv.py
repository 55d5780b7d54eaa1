"""Convolutions over space and time that never look ahead."""

import torch
from torch import Tensor, nn


class CausalConv3d(nn.Conv3d):
    """A 3D convolution whose output at frame t sees frames up to t only.

    The past is padded with copies of the first frame, so one frame alone is a valid clip; space is padded with zeros.

    Args:
        kernel_size: (frames, height, width), the latter two odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int]) -> None:
        frames, height, width = kernel_size
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"a causal convolution is odd in space, not {height}x{width}")
        super().__init__(in_channels, out_channels, kernel_size, padding=(0, height // 2, width // 2))
        self.past_frames = frames - 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolves (B, C, T, H, W) to (B, out_channels, T, H, W)."""
        return self.stream(x, None)[0]

    def stream(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolves the next frames of a clip.

        Args:
            x: (B, C, T, H, W), at least one frame.
            past: what the call before answered; None begins the clip.

        Returns:
            (B, out_channels, T, H, W), and the frames (B, C, kernel frames - 1, H, W) that the next call looks back at.
        """
        if self.past_frames:
            past = x[:, :, :1].expand(-1, -1, self.past_frames, -1, -1) if past is None else past
            x = torch.cat([past, x], dim=2)  # (B, C, past_frames + T, H, W)
        return super().forward(x), x[:, :, x.shape[2] - self.past_frames :]
