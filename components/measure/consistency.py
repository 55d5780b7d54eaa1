"""How well the frames of a clip hang together: motion, warping error, flicker, repeats, order, sharpness.

Every number here is blind to something: a frozen clip has no warping error, a blurred one no flicker. So `temporal` counts its
score only above a motion floor, and multiplies parts of which each degradation hurts at least one.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, TypedDict

import cv2
import numpy as np

from components.measure.optical_flow import flow

REPEAT_LEVELS = 1.5  # a frame repeats the one before when no block of 8x8 pixels differs by more, in levels of 255
BLOCK = 8
LEAST_CHANGE = (0.5 / 255) ** 2  # mean squared difference below which frames count as equal
FLICKER_SCALE = 0.1  # relative jitter at which the steadiness falls to 1 / e
WORST_PART = 1e-4  # not 0, so that the other parts still tell bad clips from worse ones
BLUR_WINDOW = 5
WORKING_SIDE = 128  # larger frames are measured at this short side, sharpness aside


class Temporal(TypedDict):
    """What `temporal` answers; None where a clip is too short to measure it, or too still to score."""

    status: Literal["ok", "still", "too short"]
    motion: float | None  # strongest optical flow, short sides a second
    warp_error: float | None  # mean squared error after motion compensation, colours in [0, 1]
    unexplained: float | None  # that error over the change between frames; 0: motion explains all of it
    masked_share: float | None  # pixels left out as occluded, at motion boundaries or outside the frame
    repeat_share: float | None  # frames that repeat the one before
    acceleration: float | None  # change of the optical flow; 0: steady, 1: every motion starts from nothing
    stutter: float | None  # change of the mean speed over the mean speed
    flicker: float | None  # second difference of the mean luminance over the luminance
    roughness: float | None  # difference of neighbours over that of frames two apart: 0.5 smooth, 1 without order
    sharpness: float  # 0 blurred to 1 sharp
    score: float | None


def temporal(frames: np.ndarray, fps: Fraction | float, min_motion: float, sharp_at: float = 1.0) -> Temporal:
    """Measures the temporal consistency of one clip.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        min_motion: short sides a second; below it a clip is "still" and has no score, however consistent.
        sharp_at: sharpness that counts in full, for instance what the sharpest tenth of the real clips reach.

    Returns:
        The measures, and `score` in [0, 1]: the geometric mean of six parts, each 1 for a clip without that fault.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"a clip is uint8 (T, H, W, 3) with at least one frame, not {frames.dtype} {frames.shape}")
    found = Temporal(
        status="too short", motion=None, warp_error=None, unexplained=None, masked_share=None, repeat_share=None,
        acceleration=None, stutter=None, flicker=None, roughness=None, sharpness=sharpness(frames), score=None,
    )  # fmt: skip
    if len(frames) < 2:
        return found
    frames = shrunk(frames)
    forward, backward = flow(frames), flow(frames[::-1])[::-1]
    found["motion"] = fastest = peak_motion(forward, fps)
    found["warp_error"], found["unexplained"], found["masked_share"] = warp_error(frames, forward, backward)
    found["repeat_share"] = repeat_share(frames)
    if len(frames) < 3:
        return found
    found["acceleration"], found["stutter"] = acceleration(forward)
    found["flicker"] = flicker(frames)
    found["roughness"] = roughness(frames)
    found["status"] = "ok" if fastest >= min_motion else "still"
    if found["status"] == "ok":
        found["score"] = score(found, sharp_at)
    return found


def score(found: Temporal, sharp_at: float) -> float:
    """Folds the measures of a moving clip into one number in [0, 1]."""
    parts = (
        1 - (found["unexplained"] or 0),  # noise, gain, melting
        1 - (found["acceleration"] or 0),  # shuffle, stutter, wobble
        2 * (1 - (found["roughness"] or 0.5)),  # shuffle, noise
        1 - (found["repeat_share"] or 0),  # stutter, partial freeze
        float(np.exp(-(found["flicker"] or 0) / FLICKER_SCALE)),  # gain
        found["sharpness"] / sharp_at,  # blur
    )
    return float(np.prod(np.clip(parts, WORST_PART, 1)) ** (1 / len(parts)))


def shrunk(frames: np.ndarray) -> np.ndarray:
    """Averages frames down to the working size; smaller ones stay as they are."""
    height, width = frames.shape[1:3]
    scale = WORKING_SIDE / min(height, width)
    if scale >= 1:
        return frames
    size = (round(width * scale), round(height * scale))
    return np.stack([cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA) for frame in frames])


def peak_motion(forward: np.ndarray, fps: Fraction | float) -> float:
    """Mean over time of the fastest 5 % of the pixels, in short sides a second."""
    speed = np.linalg.norm(forward, axis=-1).reshape(len(forward), -1)  # (T - 1, H * W)
    fastest = max(1, speed.shape[1] // 20)
    top = np.partition(speed, -fastest, axis=1)[:, -fastest:]
    return float(top.mean() * float(fps) / min(forward.shape[1:3]))


def warp_error(frames: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> tuple[float, float, float]:
    """Compares each frame with the next one brought back along the optical flow, where both see the same thing.

    Returns:
        The mean squared error with colours in [0, 1]; the same over the plain difference of the frames, in [0, 1]; the share of
        pixels left out. Where nothing is left to compare, all pixels count.

    Source: Lai et al. 2018, Learning Blind Video Temporal Consistency, section 4; occlusion by Ruder et al. 2016.
    """
    errors, changes, masked = [], [], []
    for t, (there, back) in enumerate(zip(forward, backward, strict=True)):
        now, after = (frames[i].astype(np.float32) / 255 for i in (t, t + 1))
        hidden = occluded(there, back)
        squared = np.square(warp(after, there) - now).mean(-1)  # (H, W)
        visible = ~hidden if not hidden.all() else np.ones_like(hidden)
        errors.append(float(squared[visible].mean()))
        changes.append(float(np.square(after - now).mean()))
        masked.append(float(hidden.mean()))
    error, change = float(np.mean(errors)), float(np.mean(changes))
    return error, min(1.0, error / max(change, LEAST_CHANGE)), float(np.mean(masked))


def warp(image: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Brings the next frame (H, W, C) back along the flow to this one; outside the frame its edge repeats."""
    xs, ys = _targets(there)
    return cv2.remap(image, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def occluded(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Marks pixels (H, W) whose way there and back does not meet, that lie at motion boundaries, or that leave the frame."""
    height, width = there.shape[:2]
    xs, ys = _targets(there)
    returned = cv2.remap(np.ascontiguousarray(back), xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    speed = np.square(there).sum(-1)
    parted = np.square(returned + there).sum(-1) > 0.01 * (np.square(returned).sum(-1) + speed) + 0.5
    slope = np.square(np.diff(there, axis=0, append=there[-1:])).sum(-1) + np.square(np.diff(there, axis=1, append=there[:, -1:])).sum(-1)
    outside = (xs < 0) | (ys < 0) | (xs > width - 1) | (ys > height - 1)
    return parted | (slope > 0.01 * speed + 0.002) | outside


def _targets(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = there.shape[:2]
    return there[..., 0] + np.arange(width, dtype=np.float32), there[..., 1] + np.arange(height, dtype=np.float32)[:, None]


def repeat_share(frames: np.ndarray) -> float:
    """Share of the frames after the first that show the frame before once more, up to coding noise."""
    return float(np.mean(repeats(frames)))


def repeats(frames: np.ndarray) -> np.ndarray:
    """Marks, for each frame after the first, whether no block of it differs from the frame before; bool (T - 1,)."""
    height, width = (side // BLOCK * BLOCK or side for side in frames.shape[1:3])
    differs = np.abs(np.diff(frames[:, :height, :width].astype(np.int16), axis=0)).mean(-1)  # (T - 1, H, W)
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    blocks = differs.reshape(len(differs), rows, height // rows, columns, width // columns).mean((2, 4))
    return blocks.max((1, 2)) < REPEAT_LEVELS


def acceleration(forward: np.ndarray) -> tuple[float, float]:
    """Change of the optical flow from one pair of frames to the next, at each pixel, and change of the mean speed alone.

    Returns:
        Acceleration in [0, 1], over the most that flows of these lengths could differ; stutter, over the mean speed.
    """
    speed = np.linalg.norm(forward, axis=-1)  # (T - 1, H, W)
    change = np.linalg.norm(np.diff(forward, axis=0), axis=-1)  # (T - 2, H, W)
    most = float((speed[1:] + speed[:-1]).mean())
    means = speed.mean((1, 2))
    if most < 1e-3:
        return 0.0, 0.0
    return float(change.mean()) / most, float(np.abs(np.diff(means)).mean() / means.mean())


def flicker(frames: np.ndarray) -> float:
    """Second difference of the mean luminance over the mean luminance: 0 for constant and for evenly changing light."""
    luma = frames.reshape(len(frames), -1, 3).mean(1) @ np.array([0.299, 0.587, 0.114])  # (T,)
    return float(np.abs(np.diff(luma, 2)).mean() / max(float(luma.mean()), 1.0))


def roughness(frames: np.ndarray) -> float:
    """Mean difference of neighbouring frames over that of frames two apart.

    Steady motion gives 0.5, frames in no order 1 or more; a still clip has no order to lose and counts as 0.5.
    """
    grey = frames.mean(-1, dtype=np.float32)  # (T, H, W)
    near = float(np.abs(grey[1:] - grey[:-1]).mean())
    far = float(np.abs(grey[2:] - grey[:-2]).mean())
    return 0.5 if max(near, far) < 0.05 else near / max(far, 1e-6)


def sharpness(frames: np.ndarray) -> float:
    """Mean over the frames of how much a further blur would take away: 1 sharp, near 0 blurred, 0 for one flat colour.

    Source: Crete et al. 2007, The Blur Effect: Perception and Estimation with a New No-Reference Perceptual Blur Metric.
    """
    return float(np.mean([_sharpness(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)) for frame in frames]))


def _sharpness(grey: np.ndarray) -> float:
    grey = grey.astype(np.float32)
    found = []
    for axis, window in ((0, (1, BLUR_WINDOW)), (1, (BLUR_WINDOW, 1))):
        if grey.shape[axis] < 2:
            continue
        slopes = np.abs(np.diff(grey, axis=axis))
        blurred = np.abs(np.diff(cv2.blur(grey, window, borderType=cv2.BORDER_REFLECT), axis=axis))
        found.append(float(np.maximum(0, slopes - blurred).sum() / max(float(slopes.sum()), 1e-6)))
    return min(found, default=0.0)
