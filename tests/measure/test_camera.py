import cv2
import numpy as np
import pytest

from components.measure.camera import camera
from components.world.render import render_clips
from tests.measure.moving import sliding


@pytest.mark.parametrize(
    ("shift", "label", "pan", "tilt"),
    [
        ((-2, 0), "pan-right", 0.25, 0.0),
        ((3, 0), "pan-left", -0.375, 0.0),
        ((0, 2), "tilt-up", 0.0, -0.25),
        ((0, -2), "tilt-down", 0.0, 0.25),
    ],
)
def test_a_picture_that_slides_by_k_pixels_is_a_camera_that_moves_the_other_way(shift, label, pan, tilt):
    found = camera(sliding(shift), fps=8)
    assert found.label == label
    assert (found.pan, found.tilt, found.zoom) == pytest.approx((pan, tilt, 0), abs=0.01)
    assert found.inlier_share > 0.8


@pytest.mark.parametrize(("factor", "label"), [(1.04, "zoom-in"), (1 / 1.04, "zoom-out")])
def test_a_picture_that_grows_is_a_zoom_of_that_rate(factor, label):
    base = sliding((1, 0), 2, 128)[0]
    frames = []
    for t in range(5):
        matrix = cv2.getRotationMatrix2D((63.5, 63.5), 0, factor ** (t - 2))
        frames.append(cv2.warpAffine(base, matrix, (128, 128), borderMode=cv2.BORDER_REFLECT)[32:96, 32:96])
    found = camera(np.stack(frames), fps=8)
    assert found.label == label
    assert found.zoom == pytest.approx(8 * np.log(factor), rel=0.1)


def test_a_still_camera_stays_still_while_a_smaller_thing_moves():
    frames = np.repeat(sliding((1, 0), 2, 64)[:1], 6, axis=0)
    for t, frame in enumerate(frames):
        frame[20:36, 4 + 4 * t : 20 + 4 * t] = (220, 30, 30)
    assert camera(frames, fps=8).label == "still"


def test_one_frame_has_no_camera_motion():
    assert camera(np.zeros((1, 64, 64, 3), np.uint8), fps=8) is None


def test_the_rich_world_s_camera_moves_are_found():
    clips, scenes = render_clips("rich", 40, seed=77)
    right = [camera(clip, 8).label == scene.camera for clip, scene in zip(clips, scenes, strict=True)]
    assert np.mean(right) >= 0.85
