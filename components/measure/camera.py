"""What the camera does in a clip: still, pan, tilt or zoom, by a robust similarity through the optical flow."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from components.measure.optical_flow import flow

GRID = 24  # points along the short side at which the flow is sampled
INLIER_PIXELS = 0.5  # at the size of small clips; larger frames allow more
MIN_RATE = 0.03  # short sides a second at the frame's edge; less counts as a still camera
MIN_INLIERS = 0.25


@dataclass(frozen=True)
class Camera:
    """The camera's own motion: it pans right where the picture slides left. Rates are medians over the clip.

    `label` is still, pan-left, pan-right, tilt-up, tilt-down, zoom-in or zoom-out, or None where no one motion dominates.
    """

    label: str | None
    pan: float  # short sides a second, to the right
    tilt: float  # short sides a second, downwards
    zoom: float  # log scale a second, inwards
    roll: float  # radians a second
    inlier_share: float  # of the sampled points that follow this motion


def camera(frames: np.ndarray, fps: Fraction | float, forward: np.ndarray | None = None) -> Camera | None:
    """Finds the camera's dominant motion.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        forward: the optical flow of these frames, where the caller has it already.

    Returns:
        The motion, or None for a clip of one frame.
    """
    if len(frames) < 2:
        return None
    forward = flow(frames) if forward is None else forward
    fits = np.array([_similarity(there) for there in forward])  # (T - 1, 5)
    rate, unit = float(fps), min(frames.shape[1:3])
    dx, dy, growth, turn, inliers = np.median(fits, axis=0)
    found = Camera(
        label=None,
        pan=float(-dx * rate / unit),
        tilt=float(-dy * rate / unit),
        zoom=float(growth * rate),
        roll=float(turn * rate),
        inlier_share=float(inliers),
    )
    return Camera(**{**vars(found), "label": _label(found)})


def _label(found: Camera) -> str | None:
    if found.inlier_share < MIN_INLIERS:
        return None
    rates = {  # how fast the picture's edge moves
        ("pan-right", "pan-left"): found.pan,
        ("tilt-down", "tilt-up"): found.tilt,
        ("zoom-in", "zoom-out"): found.zoom / 2,
    }
    (ahead, back), rate = max(rates.items(), key=lambda item: abs(item[1]))
    if abs(rate) < MIN_RATE:
        return "still"
    return ahead if rate > 0 else back


def _similarity(there: np.ndarray) -> tuple[float, float, float, float, float]:
    """Fits shift, growth and turn about the frame's centre to one flow field; answers them and the share of inliers."""
    height, width = there.shape[:2]
    step = max(1, min(height, width) // GRID)
    ys, xs = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    start = np.stack([xs - (width - 1) / 2, ys - (height - 1) / 2], axis=-1).reshape(-1, 2).astype(np.float64)
    end = start + there[ys, xs].reshape(-1, 2)
    allowed = INLIER_PIXELS * max(1, min(height, width) / 64)
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=allowed)
    if matrix is None:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    growth = float(np.log(max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-6)))
    return float(matrix[0, 2]), float(matrix[1, 2]), growth, float(np.arctan2(matrix[1, 0], matrix[0, 0])), float(inliers.mean())
