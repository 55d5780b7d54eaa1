"""One square picture of a clip: evenly spaced frames, woven so that a ViT's patch sees the same place at all their times."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Mosaic:
    """How frames become one square picture.

    Attributes:
        frames: how many, a square number; one frame is a plain picture.
        image_size: side of the whole picture in pixels.
        tile: side of the pieces that frames are cut into; the pieces of one place stand side by side, in reading order of
            time, and form a square of `grid * tile` pixels. A tile as large as a cell is a plain contact sheet.
    """

    frames: int
    image_size: int
    tile: int

    def __post_init__(self) -> None:
        if isqrt(self.frames) ** 2 != self.frames:
            below = isqrt(self.frames)
            raise ValueError(
                f"a mosaic has a square number of frames, not {self.frames}; the nearest are {below**2} and {(below + 1) ** 2}"
            )
        if self.image_size % self.grid or self.cell % self.tile:
            raise ValueError(
                f"{self.grid} x {self.grid} frames cut into tiles of {self.tile} do not fill a picture of {self.image_size} pixels; "
                f"hint: an image size that is a multiple of {self.grid * self.tile}"
            )

    @property
    def grid(self) -> int:
        """Frames on a side."""
        return isqrt(self.frames)

    @property
    def cell(self) -> int:
        """Side of one frame in pixels."""
        return self.image_size // self.grid

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)


def frame_indices(num_frames: int, count: int) -> list[int]:
    """Answers `count` evenly spaced frames of a clip, its first and last among them; of a single one, the middle."""
    if count == 1:
        return [(num_frames - 1) // 2]
    return [(2 * i * (num_frames - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def cells(frames: "np.ndarray", mosaic: Mosaic) -> "Tensor":
    """Picks a clip's frames and brings them to the mosaic's cell.

    Args:
        frames: uint8 (T, H, W, 3), RGB, of any size; other aspects are squeezed to a square.

    Returns:
        uint8 (F, 3, cell, cell).
    """
    import torch
    from torch.nn import functional

    picked = torch.from_numpy(frames[frame_indices(len(frames), mosaic.frames)]).permute(0, 3, 1, 2)
    if picked.shape[-2:] == (mosaic.cell, mosaic.cell):
        return picked.contiguous()
    size = (mosaic.cell, mosaic.cell)
    return functional.interpolate(picked.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)


def weave(cells: "Tensor", mosaic: Mosaic) -> "Tensor":
    """Lays cells out as one picture: `b (gh gw) c (kh th) (kw tw) -> b c (kh gh th) (kw gw tw)`.

    Args:
        cells: (B, F, 3, cell, cell) of any type.

    Returns:
        (B, 3, image_size, image_size).
    """
    batch, (grid, tile, places) = len(cells), (mosaic.grid, mosaic.tile, mosaic.cell // mosaic.tile)
    split = cells.reshape(batch, grid, grid, 3, places, tile, places, tile)  # b gh gw c kh th kw tw
    return split.permute(0, 3, 4, 1, 5, 6, 2, 7).reshape(batch, 3, mosaic.image_size, mosaic.image_size)


def unweave(pictures: "Tensor", mosaic: Mosaic) -> "Tensor":
    """Takes pictures apart into the cells they were woven of, (B, F, 3, cell, cell)."""
    batch, (grid, tile, places) = len(pictures), (mosaic.grid, mosaic.tile, mosaic.cell // mosaic.tile)
    split = pictures.reshape(batch, 3, places, grid, tile, places, grid, tile)  # b c kh gh th kw gw tw
    return split.permute(0, 3, 6, 1, 2, 4, 5, 7).reshape(batch, mosaic.frames, 3, mosaic.cell, mosaic.cell)


def picture(cells: "Tensor", mosaic: Mosaic, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Weaves uint8 cells (B, F, 3, cell, cell) and brings them to the model's range, float (B, 3, image_size, image_size)."""
    woven = weave(cells, mosaic).float().div_(255)
    return woven.sub_(woven.new_tensor(mean).view(3, 1, 1)).div_(woven.new_tensor(std).view(3, 1, 1))
