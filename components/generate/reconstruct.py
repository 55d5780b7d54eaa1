"""Passes a whole video file through the VAE and back, and writes it beside what went in; however long it is, few frames are held."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.measure.distortion import decibels, squared_error, ssim
from components.media.read import UnusableFile, read_frames
from components.media.write import write_stream
from components.models.pixels import to_frames, to_pixels
from components.models.tiles import LARGE_PIXELS, StreamingVae, decode_stream, encode_stream, tile_of

FIRST_FRAMES, CHUNK_FRAMES = 17, 8  # of the first chunk, whose memory is enough for all that come after it, and of the others
GAP_PIXELS = 8


@dataclass
class Likeness:
    """How like what went in what came out is, frame by frame as they pass."""

    errors: list[float] = field(default_factory=list)
    similar: list[float] = field(default_factory=list)

    def add(self, original: np.ndarray, back: np.ndarray) -> None:
        """Compares two frames, each uint8 (H, W, 3)."""
        self.errors.append(squared_error(original, back))
        if (similar := ssim(original[None], back[None])) is not None:
            self.similar.append(similar)

    @property
    def psnr(self) -> float:
        """Of the mean squared error over all frames, dB."""
        return decibels(float(np.mean(self.errors)))

    @property
    def ssim(self) -> float | None:
        """The mean over frames; None for frames smaller than its window."""
        return float(np.mean(self.similar)) if self.similar else None


def reconstruct(
    vae: StreamingVae,
    source: Path,
    target: Path,
    fps: Fraction,
    *,
    device: str = "cpu",
    tile_pixels: int = LARGE_PIXELS,
    progress: Callable[[int], None] = lambda done: None,
) -> Likeness:
    """Writes a video with, side by side, a file's frames and what the VAE makes of them; answers how like the two are.

    Sides that the VAE does not divide are continued by their edge on the way in and cut on the way out; so is the length. Frames of
    another size than the first are scaled to it.

    Args:
        fps: of the file that is written.
        tile_pixels: larger pictures pass in tiles of this side, or of the smallest that this VAE can use.
        progress: told how many frames are done.

    Raises:
        UnusableFile: the file has no picture that can be decoded.
    """
    waiting: deque[np.ndarray] = deque()
    likeness = Likeness()
    tile = tile_of(vae, tile_pixels)
    chunks = encode_stream(vae, _chunks(source, vae, waiting, device), tile)

    def pairs() -> Iterator[np.ndarray]:
        for decoded in decode_stream(vae, chunks, tile):
            frames = to_frames(decoded)[0].cpu().numpy()
            del decoded  # before the next chunk is made
            for back in frames:
                if not waiting:  # what was added to fill the last patch
                    return
                original = waiting.popleft()
                back = back[: original.shape[0], : original.shape[1]]
                likeness.add(original, back)
                progress(len(likeness.errors))
                gap = np.full((original.shape[0], GAP_PIXELS, 3), 255, np.uint8)
                yield np.concatenate([original, gap, back], axis=1)

    write_stream(target, pairs(), fps)
    return likeness


def _chunks(source: Path, vae: StreamingVae, waiting: deque[np.ndarray], device: str) -> Iterator[Tensor]:
    """Yields a file's frames (1, 3, T, H, W) as the VAE takes them, and notes each that somebody waits for."""
    frames = read_frames(source)
    first = next(frames, None)
    if first is None:
        raise UnusableFile("it has no picture that can be decoded")
    pictures = (frame.resized(first.height, first.width) for frame in chain([first], frames))
    count = 0
    while chunk := list(islice(pictures, CHUNK_FRAMES if count else FIRST_FRAMES)):
        waiting.extend(chunk)
        count, last = count + len(chunk), chunk[-1]
        yield _clip(chunk, vae.side, device)
    missing = -(count - 1) % vae.period
    if missing:
        yield _clip([last] * missing, vae.side, device)


def _clip(pictures: Sequence[np.ndarray], side: int, device: str) -> Tensor:
    clip = to_pixels(torch.from_numpy(np.stack(pictures))[None].to(device))
    below, right = (-length % side for length in clip.shape[-2:])
    return F.pad(clip, (0, right, 0, below, 0, 0), mode="replicate")
