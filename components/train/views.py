"""What a step of the video VAE's training sees of its clips: a frame of each or a stretch, how fast, how near, how large, from where.

All of it is drawn for the whole batch by the step's generator, so workers who hold shares of a batch agree. Needs torch alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from components.models.pixels import to_pixels

if TYPE_CHECKING:
    from components.sections import Vae


@dataclass(frozen=True)
class View:
    """What one step sees of clips of one shape; all show as many frames, as fast and as large.

    Attributes:
        num_frames: of each clip; 1 sees an image.
        stride: from one frame to the next.
        window: (height, width) in pixels of what is cut out.
        size: (height, width) in pixels that the window is scaled down to.
        places: of each clip of the whole batch, where it begins: frame, row, column; and whether it is mirrored, (B, 4).
    """

    num_frames: int
    stride: int
    window: tuple[int, int]
    size: tuple[int, int]
    places: Tensor


def draw_view(settings: "Vae", shape: Sequence[int], whole: int, period: int, multiple: int, generator: torch.Generator) -> View:
    """Draws what a step sees.

    A clip that is too short for more than its first latent is seen as images, whatever the settings.

    Args:
        shape: frames, height and width of the clips.
        whole: how many clips all workers hold.
        period: clips of 1 + a multiple of so many frames can be encoded, and
        multiple: of sides of a multiple of so many pixels.
    """
    frames, sides = shape[0], (shape[1], shape[2])

    def below(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    num_frames = stride = 1
    if float(torch.rand((), generator=generator)) >= settings.image_share and frames > period:
        stride += below(min(settings.max_frame_stride, (frames - 1) // period))
        longest = (frames - 1) // stride // period
        num_frames += period * (1 + below(longest) if settings.random_lengths else longest)
    smallest = settings.min_crop_size or settings.crop_size
    side = smallest + multiple * below((settings.crop_size - smallest) // multiple + 1)
    height, width = (min(side, there) // multiple * multiple for there in sides)
    nearest = min(settings.max_downscale, sides[0] / height, sides[1] / width)
    scale = 1.0 + (nearest - 1.0) * float(torch.rand((), generator=generator))
    window = (min(sides[0], round(height * scale)), min(sides[1], round(width * scale)))
    rooms = (frames - (num_frames - 1) * stride, sides[0] - window[0] + 1, sides[1] - window[1] + 1)
    corners = [torch.randint(room, (whole,), generator=generator) for room in rooms]
    mirrored = torch.rand(whole, generator=generator) < settings.mirror_share
    return View(num_frames, stride, window, (height, width), torch.stack([*corners, mirrored.long()], dim=1))


def seen(frames: Tensor, view: View, share: slice = slice(None), device: str | torch.device = "cpu") -> Tensor:
    """Answers what a view shows of a worker's clips, (B, 3, T, H, W) in [-1, 1].

    Args:
        frames: uint8 (B, T, H, W, 3), the clips of a share.
        share: their places in the whole batch.
    """
    parts = torch.stack(list(_parts(frames, view, share)))  # (B, t, h, w, 3)
    clips = to_pixels(parts.to(device))
    return clips if view.window == view.size else _smaller(clips, view.size)


def _parts(frames: Tensor, view: View, share: slice) -> Iterator[Tensor]:
    span, (height, width) = (view.num_frames - 1) * view.stride + 1, view.window
    for clip, (first, top, left, mirrored) in zip(frames, view.places[share].tolist(), strict=True):
        part = clip[first : first + span : view.stride, top : top + height, left : left + width]
        yield part.flip(2) if mirrored else part


def _smaller(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """Scales clips (B, 3, T, H, W) down; each pixel is a mean of those that it stands for, so nothing fine is left to alias."""
    batch, channels, frames, height, width = clips.shape
    pictures = clips.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
    scaled = F.interpolate(pictures, size, mode="bilinear", antialias=True)
    return scaled.view(batch, frames, channels, *size).permute(0, 2, 1, 3, 4)
