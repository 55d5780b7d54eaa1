"""PSNR and SSIM are what their definitions say."""

import math

import numpy as np
import pytest

from components.measure.distortion import first_frame_bias, psnr, ssim


def noise_clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (3, 24, 20, 3)).astype(np.uint8)


def test_psnr_of_a_constant_offset_is_its_closed_form():
    assert psnr(noise_clip(), noise_clip() + 5) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(noise_clip(), noise_clip()) == 100.0


def test_ssim_of_two_flat_pictures_is_its_closed_form():
    x, y = (np.full((2, 16, 16, 3), level, np.uint8) for level in (100, 150))
    c1 = (0.01 * 255) ** 2
    assert ssim(x, y) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    assert ssim(noise_clip(), noise_clip()) == pytest.approx(1.0)


def test_ssim_agrees_with_its_definition_window_by_window():
    x, y = noise_clip(1)[:1], noise_clip(2)[:1]
    places = np.arange(-5, 6)
    weights = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(24 - 10):
        for column in range(20 - 10):
            for channel in range(3):
                a, b = (clip[0, row : row + 11, column : column + 11, channel].astype(float) for clip in (x, y))
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                cov = (weights * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(x, y) == pytest.approx(np.mean(values), abs=1e-9)


def test_ssim_of_frames_smaller_than_its_window_is_null():
    assert ssim(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)) is None


def test_clips_of_two_shapes_are_not_compared():
    with pytest.raises(ValueError, match="one shape"):
        psnr(noise_clip(), noise_clip()[:, :-1])


def test_a_first_frame_that_is_off_by_itself_is_measured_and_an_error_of_all_frames_is_not():
    clip = noise_clip().repeat(2, axis=0)
    brighter = clip.copy()
    brighter[0, ..., 1] += 5
    assert first_frame_bias(clip, brighter) == pytest.approx(5.0)
    assert first_frame_bias(clip, clip + 5) == pytest.approx(0.0)
    assert first_frame_bias(clip[:1], clip[:1] + 3) == pytest.approx(3.0)
