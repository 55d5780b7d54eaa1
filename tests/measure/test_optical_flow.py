import cv2
import numpy as np
import pytest

from components.measure.optical_flow import flow
from tests.measure.moving import sliding


@pytest.mark.parametrize("shift", [(2, 0), (-3, 1), (0, -4)])
def test_a_picture_that_slides_by_k_pixels_has_that_flow(shift):
    found = flow(sliding(shift))
    inner = found[:, 8:-8, 8:-8].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inner, axis=0), shift, atol=0.02)


def test_the_way_back_is_the_opposite():
    frames = sliding((3, 0))
    back = flow(frames[::-1])[::-1]
    np.testing.assert_allclose(np.median(back[:, 8:-8, 8:-8].reshape(-1, 2), axis=0), (-3, 0), atol=0.02)


def test_one_frame_has_no_flow_and_tiny_frames_have_one():
    assert flow(np.zeros((1, 64, 64, 3), np.uint8)).shape == (0, 64, 64, 2)
    assert flow(np.zeros((2, 4, 6, 3), np.uint8)).shape == (1, 4, 6, 2)


def test_the_number_of_threads_changes_nothing():
    frames, threads = sliding((3, 1)), cv2.getNumThreads()
    found = []
    for count in (1, 2):
        cv2.setNumThreads(count)
        found.append(flow(frames))
    cv2.setNumThreads(threads)
    np.testing.assert_array_equal(*found)
