"""How much moves in a clip, in units that do not depend on its size or frame rate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from components.measure.optical_flow import flow

PAIRS = 4  # of neighbouring frames, evenly over the clip; all of them say little more and cost much more


def motion(frames: np.ndarray, fps: Fraction | float, forward: np.ndarray | None = None) -> float | None:
    """Answers the mean length of the optical flow, in short sides of the frame a second; None for a single frame.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        forward: the optical flow of these frames, where the caller has it already.
    """
    if len(frames) < 2:
        return None
    if forward is None:
        starts = np.linspace(0, len(frames) - 2, min(PAIRS, len(frames) - 1)).round().astype(int)
        forward = np.concatenate([flow(frames[t : t + 2]) for t in starts])
    return float(np.hypot(forward[..., 0], forward[..., 1]).mean()) * float(fps) / min(frames.shape[1:3])
