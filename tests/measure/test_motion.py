"""Motion in short sides a second: a known slide has its known speed, whatever the size and frame rate."""

import numpy as np
import pytest

from components.measure.motion import motion
from components.measure.optical_flow import flow


def sliding(pixels: int, num_frames: int = 9, size: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(0).uniform(0, 255, (size // 4, (size + pixels * num_frames) // 4 + 1, 3))
    wide = coarse.repeat(4, 0).repeat(4, 1)
    for axis in (0, 1):
        wide = sum(np.roll(wide, step, axis) for step in (-2, -1, 0, 1, 2)) / 5
    return np.stack([wide[:size, pixels * t : pixels * t + size] for t in range(num_frames)]).astype(np.uint8)


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_a_slide_has_its_speed(pixels):
    assert motion(sliding(pixels), 8) == pytest.approx(pixels * 8 / 64, rel=0.25)


def test_speed_is_in_short_sides_so_size_and_rate_do_not_matter():
    assert motion(sliding(4, size=128), 8) == pytest.approx(motion(sliding(2, size=64), 8), rel=0.25)
    frames = sliding(1, num_frames=17)
    assert motion(frames[::2], 8) == pytest.approx(motion(frames, 16), rel=0.25)


def test_what_stands_still_does_not_move_and_one_frame_has_no_motion():
    assert motion(np.repeat(sliding(2)[:1], 9, 0), 8) == pytest.approx(0.0, abs=1e-3)
    assert motion(sliding(2)[:1], 8) is None


def test_flow_that_the_caller_has_is_used():
    frames = sliding(2)
    assert motion(frames, 8, flow(frames)) == pytest.approx(motion(frames, 8), rel=0.2)
