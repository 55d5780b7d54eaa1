"""How much one picture differs from another beyond small motions: what a cut and a dissolve do, and a pan does not."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHORT_SIDE = 32  # pictures are compared at this size
REACH = cv2.getStructuringElement(cv2.MORPH_RECT, (5, 5))  # a pixel may come from two pixels away, 1/16 of the short side

cv2.setNumThreads(1)  # pictures are small and workers run side by side


@dataclass(frozen=True)
class Look:
    """A picture made ready to be compared: small, with the darkest and brightest value around each pixel.

    `luma` and `contrast` are the mean and the mean deviation of its values, 0 to 255.
    """

    small: np.ndarray
    low: np.ndarray
    high: np.ndarray
    luma: float
    contrast: float


def look(rgb: np.ndarray) -> Look:
    """Makes a picture, uint8 (H, W, 3), ready to be compared."""
    height, width = rgb.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    mean, deviation = cv2.meanStdDev(small)
    return Look(small, cv2.erode(small, REACH), cv2.dilate(small, REACH), float(mean.mean()), float(deviation.mean()))


def change(a: Look, b: Look) -> float:
    """Answers the mean difference, 0 to 255, that no shift of up to two small pixels explains."""
    return (_beyond(a, b) + _beyond(b, a)) / 2


def _beyond(a: Look, b: Look) -> float:
    above = cv2.subtract(b.small, a.high)  # saturates at 0, as the next line does
    below = cv2.subtract(a.low, b.small)
    return sum(cv2.mean(cv2.max(above, below))) / 3


def blend(a: Look, b: Look, middle: Look) -> tuple[float, float]:
    """Fits a picture as a mixture of two others.

    Returns:
        the share of `b` in it, by least squares, and the change that the mixture leaves unexplained.
    """
    start, way = a.small.astype(np.float32), b.small.astype(np.float32) - a.small
    length = float((way * way).sum())
    if not length:
        return 0.0, change(a, middle)
    share = float(((middle.small - start) * way).sum()) / length
    mixed = (start + np.float32(min(1.0, max(0.0, share))) * way + 0.5).astype(np.uint8)
    return share, change(look(mixed), middle)


def resemblance(a: Look, b: Look) -> float:
    """Answers how alike two pictures are in structure: the correlation of their values, -1 to 1; 0 where one is flat."""
    left, right = (picture.small.astype(np.float32) - cv2.mean(picture.small)[:3] for picture in (a, b))
    length = float(np.sqrt((left * left).sum() * (right * right).sum()))
    return float((left * right).sum()) / length if length else 0.0
