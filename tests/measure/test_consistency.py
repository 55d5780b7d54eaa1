import cv2
import numpy as np
import pytest

from components.measure.consistency import (
    acceleration,
    flicker,
    occluded,
    peak_motion,
    repeat_share,
    repeats,
    roughness,
    score,
    sharpness,
    temporal,
    warp,
    warp_error,
)
from components.measure.optical_flow import flow
from tests.measure.moving import sliding


def steady(x: float, y: float, num_frames: int = 4, side: int = 16) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32), (num_frames, side, side, 2)).copy()


def test_motion_of_a_slide_is_its_speed_in_short_sides_a_second():
    assert peak_motion(flow(sliding((2, 0), side=64)), fps=8) == pytest.approx(2 * 8 / 64, rel=0.1)


def test_time_stretch_halves_the_motion():
    frames = sliding((2, 0))
    assert temporal(frames, 4, 0.0)["motion"] == pytest.approx(temporal(frames, 8, 0.0)["motion"] / 2)


def test_size_changes_neither_motion_nor_score_by_much():
    large = sliding((8, 0), 9, 256)
    small = np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in large])
    one, other = temporal(large, 8, 0.02, 0.1), temporal(small, 8, 0.02, 0.1)
    assert one["motion"] == pytest.approx(other["motion"], rel=0.1)
    assert one["score"] == pytest.approx(other["score"], abs=0.05)


def test_an_exact_translation_has_next_to_no_warp_error():
    frames = sliding((2, 1))
    error, unexplained, masked = warp_error(frames, flow(frames), flow(frames[::-1])[::-1])
    assert error < 1e-5
    assert unexplained < 1e-3
    assert 3 / 64 < masked < 0.25  # the two columns and the row that leave the frame, and little else


def test_the_true_flow_brings_the_next_frame_back_exactly():
    frames = sliding((3, 0))
    back = warp(frames[1].astype(np.float32), steady(3, 0, 1, 64)[0])
    np.testing.assert_array_equal(back[:, :-3], frames[0][:, :-3])


def test_warp_error_of_a_change_that_no_motion_explains_is_the_change():
    frames = np.stack([np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 151, np.uint8)])
    nothing = np.zeros((1, 32, 32, 2), np.float32)
    error, unexplained, masked = warp_error(frames, nothing, nothing)
    assert error == pytest.approx(0.04)  # (51 / 255) squared
    assert unexplained == 1.0
    assert masked == 0.0


def test_pixels_that_leave_the_frame_or_do_not_come_back_are_left_out():
    there, back = steady(4, 0, 1, 32)[0], steady(-4, 0, 1, 32)[0]
    np.testing.assert_array_equal(occluded(there, back), np.tile(np.arange(32) > 27, (32, 1)))
    assert occluded(there, there).all()


def test_a_motion_boundary_is_left_out():
    there = np.zeros((32, 32, 2), np.float32)
    there[:, 16:, 0] = 0.3  # too slow for the way there and back to miss
    np.testing.assert_array_equal(np.flatnonzero(occluded(there, -there)[0, :30]), [15])


def test_a_frozen_clip_repeats_every_frame_has_no_motion_and_no_score():
    found = temporal(np.repeat(sliding((2, 0))[:1], 9, axis=0), 8, 0.02)
    assert found["repeat_share"] == 1.0
    assert found["motion"] == 0.0
    assert found["warp_error"] == 0.0
    assert found["status"] == "still"
    assert found["score"] is None


def test_repeats_are_found_under_coding_noise_and_a_small_moving_thing_is_none():
    rng = np.random.default_rng(0)
    frames = np.clip(100 + rng.normal(0, 0.7, (4, 64, 64, 3)), 0, 255).round().astype(np.uint8)
    assert repeat_share(frames) == 1.0
    frames[2, 8:14, 8:14] = 200
    assert repeats(frames).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("num_frames", "null"),
    [
        (1, {"motion", "warp_error", "unexplained", "masked_share", "repeat_share", "acceleration", "stutter", "flicker", "roughness"}),
        (2, {"acceleration", "stutter", "flicker", "roughness"}),
    ],
)
def test_clips_of_one_and_two_frames_say_what_they_cannot_know(num_frames, null):
    found = temporal(sliding((2, 0), num_frames), 8, 0.02)
    assert found["status"] == "too short"
    assert found["score"] is None
    assert {key for key, value in found.items() if value is None} == null | {"score"}


def test_steady_flow_has_no_acceleration_and_a_reversal_all_of_it():
    there = steady(2, 0)
    assert acceleration(there) == (0.0, 0.0)
    there[1::2] *= -1
    assert acceleration(there) == (1.0, 0.0)  # the speed stays the same
    there = steady(2, 0)
    there[1::2] = 0
    assert acceleration(there) == (1.0, pytest.approx(2.0))


def test_flicker_is_zero_for_a_fade_and_the_second_difference_for_gain():
    levels = np.array([100, 110, 120, 130])
    fade = np.broadcast_to(levels[:, None, None, None], (4, 8, 8, 3)).astype(np.uint8)
    assert flicker(fade) == pytest.approx(0.0, abs=1e-6)
    levels = np.array([110, 90, 110, 90])
    assert flicker(np.broadcast_to(levels[:, None, None, None], (4, 8, 8, 3)).astype(np.uint8)) == pytest.approx(0.4)


def test_roughness_is_half_for_even_change_and_one_for_noise():
    levels = np.arange(0, 90, 10)
    assert roughness(np.broadcast_to(levels[:, None, None, None], (9, 8, 8, 3)).astype(np.uint8)) == pytest.approx(0.5)
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    assert roughness(noise) == pytest.approx(1.0, abs=0.02)


def test_sharpness_falls_with_every_further_blur_and_is_zero_for_one_colour():
    sharp = np.random.default_rng(0).integers(0, 2, (1, 64, 64, 1)).repeat(3, -1).astype(np.uint8) * 255
    blurred = [sharpness(cv2.GaussianBlur(sharp[0], (0, 0), sigma)[None]) for sigma in (0.7, 1.4, 2.8)]
    assert sharpness(sharp) > blurred[0] > blurred[1] > blurred[2] > 0
    assert sharpness(np.full((1, 64, 64, 3), 90, np.uint8)) == 0.0


def test_sharpness_of_a_step_edge_is_its_closed_form():
    step = np.zeros((1, 32, 32, 3), np.uint8)
    step[:, :, 16:] = 100
    # across: a box of five spreads one slope of 100 over five of 20, so 100 - 20 of 100 is lost; along: there is no slope to lose
    assert sharpness(step) == 0.0
    corner = np.zeros((1, 64, 64, 3), np.uint8)
    corner[:, 32:, 32:] = 100
    assert sharpness(corner) == pytest.approx((32 * 80 - 2 * (12 + 4)) / (32 * 100), abs=0.03)


def test_a_fault_in_any_part_lowers_the_score():
    whole = temporal(sliding((2, 0), 9), 8, 0.02)
    best = score(whole, whole["sharpness"])
    assert best > 0.9
    for fault in ({"unexplained": 0.5}, {"acceleration": 0.5}, {"roughness": 0.8}, {"repeat_share": 0.5}, {"flicker": 0.1}):
        assert score({**whole, **fault}, whole["sharpness"]) < best - 0.05
    assert score(whole, 2 * whole["sharpness"]) < best - 0.05


def test_frames_of_another_type_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        temporal(np.zeros((3, 8, 8, 3), np.float32), 8, 0.02)
