"""A clip's fingerprint: what stays the same when a film is encoded again, resized, or cut at other moments."""

from __future__ import annotations

import cv2
import numpy as np

CELLS = 8  # a frame becomes 8x8 colours
MAX_FRAMES = 9
WORDS = CELLS * CELLS * 3 // 8  # int64 a frame


def fingerprint(frames: np.ndarray) -> list[int]:
    """Answers the mean colours of 8x8 cells of up to nine evenly spaced frames, eight bytes a number.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
    """
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
    cells = [cv2.resize(np.ascontiguousarray(frames[i]), (CELLS, CELLS), interpolation=cv2.INTER_AREA) for i in chosen]
    packed: list[int] = np.stack(cells).reshape(-1, 8).view("<i8").ravel().tolist()
    return packed


def unpack(fingerprints: list[list[int]]) -> np.ndarray:
    """Answers fingerprints of the same number of frames as uint8 (N, T, 192)."""
    packed = np.array(fingerprints, "<i8")
    return packed.view(np.uint8).reshape(len(packed), -1, CELLS * CELLS * 3)
