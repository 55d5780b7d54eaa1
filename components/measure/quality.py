"""Plain qualities of a clip's pictures: brightness, contrast, sharpness, and how many frames only repeat the one before."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

REPEAT_MEAN = 0.3  # of 255: the mean difference below which a frame may be a repeat
REPEAT_CELL = 1.5  # and the difference of each cell of 8x8, so that a small thing that moves is seen
CELLS = 8


@dataclass(frozen=True)
class Quality:
    """`luma` and `contrast` (the deviation within a frame) are 0 to 255, means over frames.

    `sharpness` is the variance of the Laplacian, the median over frames; `repeat_share` is None for a single frame.
    """

    luma: float
    contrast: float
    sharpness: float
    repeat_share: float | None


def quality(frames: np.ndarray) -> Quality:
    """Measures frames, uint8 (T, H, W, 3), RGB."""
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    moments = [cv2.meanStdDev(grey) for grey in greys]
    edges = [cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1].item() ** 2 for grey in greys]
    return Quality(
        luma=float(np.mean([mean.item() for mean, _ in moments])),
        contrast=float(np.mean([deviation.item() for _, deviation in moments])),
        sharpness=float(np.median(edges)),
        repeat_share=repeat_share(frames),
    )


def repeat_share(frames: np.ndarray) -> float | None:
    """Answers the share of frames, but for the first, that look just like the frame before; None for a single frame."""
    if len(frames) < 2:
        return None
    repeats = 0
    for before, after in pairwise(frames):
        difference = cv2.absdiff(before, after)
        cells = cv2.resize(difference, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
        repeats += bool(difference.mean() < REPEAT_MEAN and cells.max() < REPEAT_CELL)
    return repeats / (len(frames) - 1)
