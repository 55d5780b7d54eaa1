"""Optical flow between neighbouring frames: dense inverse search (DIS), with no weights and the same numbers each time."""

from __future__ import annotations

import cv2
import numpy as np

MIN_SIDE = 16  # below that DIS has no room for its patches; smaller frames are extended by their edge pixels


def flow(frames: np.ndarray) -> np.ndarray:
    """Finds where each pixel of a frame lies in the next one.

    Variational smoothing is left out: at the sizes of clips it costs more than all the rest and smears motion over its surroundings.

    Args:
        frames: uint8 (T, H, W, 3), RGB.

    Returns:
        float32 (T - 1, H, W, 2): x to the right and y downwards, in pixels a frame. `flow(frames[::-1])[::-1]` is the way back.

    Source: Kroeger et al. 2016, Fast Optical Flow using Dense Inverse Search.
    """
    height, width = frames.shape[1:3]
    down, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    search.setPatchStride(4)
    search.setGradientDescentIterations(12)
    search.setVariationalRefinementIterations(0)
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    if down or right:
        greys = [cv2.copyMakeBorder(grey, 0, down, 0, right, cv2.BORDER_REPLICATE) for grey in greys]
    found = np.empty((max(0, len(frames) - 1), height, width, 2), np.float32)
    for t in range(len(found)):
        start = np.zeros((*greys[t].shape, 2), np.float32)
        found[t] = np.asarray(search.calc(greys[t], greys[t + 1], start))[:height, :width]
    return found
