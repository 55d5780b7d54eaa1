"""Encodes and decodes video of any length and size in bounded memory: chunk after chunk of time, tile beside tile of space.

A tile overlaps its neighbours by what a place of it can depend on and by a blend. So where the codec's reach is known, the blended
frames are those of the whole picture; for a codec that looks further the blend hides the seams.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from components.models.layers import check_sides

BLEND = 4  # places over which one tile fades into the next
LONG_FRAMES, LARGE_PIXELS = 32, 512  # what is longer passes in chunks, what is larger in tiles


class StreamingVae(Protocol):
    """A codec of video that takes a clip chunk by chunk, its state passed in and out.

    Attributes:
        frames: of time that one latent holds, but for the first, which holds one.
        side: of a latent's place, in pixels.
        reach: places to each side that the latents and the pixels of a place depend on.
        period: the frames of a clip are 1 + a multiple of so many.
        pace: how many latents a call of a chunk takes, the first call and each later one; None for any number.
    """

    frames: int
    side: int
    reach: int
    period: int

    @property
    def pace(self) -> tuple[int, int] | None: ...

    def check(self, clip: Tensor) -> None: ...

    def encode(self, clip: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def encode_chunk(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...

    def decode_chunk(self, latents: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class Window:
    """A tile's extent along one side, in places, and what it overlaps with on either end."""

    start: int
    end: int
    before: int
    after: int

    def weights(self, reach: int, scale: int) -> Tensor:
        """Answers the weight of each of its places cut into `scale` parts, (places * scale,): 0 near an inner end, rising to 1."""
        at = (torch.arange((self.end - self.start) * scale) + 0.5) / scale
        weights = torch.ones_like(at)
        for overlap, inwards in ((self.before, at), (self.after, self.end - self.start - at)):
            if overlap:
                margin = min(reach, (overlap - 1) // 2)
                weights = weights * ((inwards - margin) / (overlap - 2 * margin)).clamp(0.0, 1.0)
        return weights


def windows(length: int, tile: int, overlap: int) -> list[Window]:
    """Cuts `length` places into windows of `tile`, each sharing at least `overlap` with the next; one where it all fits.

    Raises:
        ValueError: a tile is all overlap.
    """
    if length <= tile:
        return [Window(0, length, 0, 0)]
    if tile <= overlap:
        raise ValueError(f"a tile of {tile} places is too small to share {overlap} with its neighbour; the smallest is {overlap + 1}")
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(number * (length - tile) / (count - 1)) for number in range(count)]
    shared = [0, *(before + tile - start for before, start in pairwise(starts)), 0]
    return [Window(start, start + tile, shared[number], shared[number + 1]) for number, start in enumerate(starts)]


class Tiles:
    """How a picture of latents is cut into tiles, and put together again.

    Args:
        height, width: of the picture in places.
        tile: the longest side of a tile in places; None for the picture as a whole.
        reach: how far tiles are of no use from where they were cut, in places.
    """

    def __init__(self, height: int, width: int, tile: int | None, reach: int) -> None:
        self.height, self.width, self.reach = height, width, reach
        rows, columns = (windows(length, tile or length, 2 * reach + BLEND) for length in (height, width))
        self.windows = [(row, column) for row in rows for column in columns]

    def cut(self, picture: Tensor, scale: int) -> list[Tensor]:
        """Answers the tiles of (B, C, T, height * scale, width * scale)."""
        return [picture[self._place(row, column, scale)] for row, column in self.windows]

    def blend(self, tiles: Sequence[Tensor], scale: int) -> Tensor:
        """Puts tiles together as (B, C, T, height * scale, width * scale), each fading into the next where they overlap."""
        if len(tiles) == 1:
            return tiles[0]
        whole = tiles[0].new_zeros(*tiles[0].shape[:3], self.height * scale, self.width * scale)
        total = torch.zeros_like(whole[:1, :1, :1])
        for (row, column), tile in zip(self.windows, tiles, strict=True):
            weights = torch.outer(row.weights(self.reach, scale), column.weights(self.reach, scale)).to(tile)
            whole[self._place(row, column, scale)] += tile * weights
            total[self._place(row, column, scale)] += weights
        return whole / total

    @staticmethod
    def _place(row: Window, column: Window, scale: int) -> tuple[Any, ...]:
        return ..., slice(row.start * scale, row.end * scale), slice(column.start * scale, column.end * scale)


@torch.no_grad()
def encode_stream(vae: StreamingVae, chunks: Iterable[Tensor], tile: int | None = None) -> Iterator[Tensor]:
    """Encodes a clip that comes in chunks of any lengths; yields latents (B, C, t, H / rs, W / rs) as they are complete.

    Args:
        chunks: each (B, 3, T, H, W) in [-1, 1].
        tile: the longest side of a tile in places of latents; None encodes chunks as a whole.

    Raises:
        ValueError: the sides do not fit, or a tile is too small for what this codec looks at.
    """
    tiles, states = None, [None]
    if vae.pace is not None:
        chunks = paced(chunks, *frames_of(vae, vae.pace))
    for chunk in chunks:
        if tiles is None:
            check_sides(chunk, vae.side)
            tiles = Tiles(chunk.shape[-2] // vae.side, chunk.shape[-1] // vae.side, tile, vae.reach)
            states = [None] * len(tiles.windows)
        coded = [vae.encode_chunk(part, state) for part, state in zip(tiles.cut(chunk, vae.side), states, strict=True)]
        latents, states = tiles.blend([part for part, _ in coded], 1), [state for _, state in coded]
        del chunk, coded  # before the next one is made
        if latents.shape[2]:
            yield latents


@torch.no_grad()
def decode_stream(vae: StreamingVae, chunks: Iterable[Tensor], tile: int | None = None) -> Iterator[Tensor]:
    """Decodes latents that come in chunks (B, C, t, H, W); yields frames (B, 3, T, H * rs, W * rs) chunk by chunk.

    Args:
        tile: the longest side of a tile in places of latents; None decodes chunks as a whole.

    Raises:
        ValueError: a tile is too small for what this codec looks at.
    """
    tiles, states = None, [None]
    if vae.pace is not None:
        chunks = paced(chunks, *vae.pace)
    for chunk in chunks:
        if tiles is None:
            tiles = Tiles(chunk.shape[-2], chunk.shape[-1], tile, vae.reach)
            states = [None] * len(tiles.windows)
        decoded = [vae.decode_chunk(part, state) for part, state in zip(tiles.cut(chunk, 1), states, strict=True)]
        frames, states = tiles.blend([part for part, _ in decoded], vae.side), [state for _, state in decoded]
        del chunk, decoded  # before the next one is made
        yield frames
        del frames


def paced(chunks: Iterable[Tensor], first: int, later: int) -> Iterator[Tensor]:
    """Cuts a clip that comes in chunks anew, along time: `first` at first, then `later` each, and what is left at the end."""
    held: list[Tensor] = []
    wanted = first
    for chunk in chunks:
        held.append(chunk)
        while sum(part.shape[2] for part in held) >= wanted:
            joined = torch.cat(held, dim=2) if len(held) > 1 else held[0]
            yield joined[:, :, :wanted]
            held, wanted = [joined[:, :, wanted:]], later
    if any(part.shape[2] for part in held):
        yield torch.cat(held, dim=2)


def frames_of(vae: StreamingVae, pace: tuple[int, int]) -> tuple[int, int]:
    """Answers how many frames so many latents hold, at the start of a clip and later."""
    first, later = pace
    return 1 + (first - 1) * vae.frames, later * vae.frames


def encode_clip(vae: StreamingVae, clip: Tensor) -> Tensor:
    """Encodes a clip (B, 3, T, H, W) of any length and size as latents (B, C, T, H, W); only the result grows with it.

    Raises:
        ValueError: the clip's frames or sides do not fit; the nearest that do are named.
    """
    vae.check(clip)
    return torch.cat(list(encode_stream(vae, clip.split(LONG_FRAMES, dim=2), tile_of(vae))), dim=2)


def decode_latents(vae: StreamingVae, latents: Tensor) -> Tensor:
    """Decodes latents (B, C, T, H, W) of any length and size as frames (B, 3, T, H, W); only the result grows with them."""
    return torch.cat(list(decode_stream(vae, latents.split(max(1, LONG_FRAMES // vae.frames), dim=2), tile_of(vae))), dim=2)


def tile_of(vae: StreamingVae, pixels: int = LARGE_PIXELS) -> int:
    """Answers the side of a tile of so many pixels in places, but at least one of which half is not shared with the next."""
    return max(pixels // vae.side, 2 * (2 * vae.reach + BLEND))
