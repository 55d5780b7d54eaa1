"""Change beyond small motions: a slide costs nothing, another picture does, and a mixture is known as one."""

import cv2
import numpy as np
import pytest

from components.measure.change import blend, change, look, resemblance


def texture(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 8, width // 8, 3))
    return coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def test_a_picture_does_not_differ_from_itself():
    seen = look(texture(0))
    assert change(seen, seen) == 0.0
    assert resemblance(seen, seen) == pytest.approx(1.0)


@pytest.mark.parametrize("shift", [(0, 1), (2, 0), (3, -3), (-4, 2)])
def test_a_slide_of_a_sixteenth_of_the_short_side_is_little_change(shift):
    picture, other = (cv2.resize(texture(seed), (384, 256), interpolation=cv2.INTER_CUBIC) for seed in (1, 2))
    slid = np.roll(picture, 2 * np.array(shift), axis=(0, 1))
    view = (slice(64, 192), slice(64, 320))
    assert change(look(picture[view]), look(slid[view])) < 0.1 * change(look(picture[view]), look(other[view]))


def test_a_long_slide_and_another_picture_are_changes():
    picture = texture(2)
    assert change(look(picture), look(np.roll(picture, 24, axis=1))) > 10
    assert change(look(picture), look(texture(3))) > 10


def test_change_is_the_same_both_ways_and_at_any_size():
    one, other = texture(4), texture(5)
    assert change(look(one), look(other)) == change(look(other), look(one))
    large = change(look(one.repeat(8, 0).repeat(8, 1)), look(other.repeat(8, 0).repeat(8, 1)))
    assert large == pytest.approx(change(look(one), look(other)), rel=0.02)


def test_a_flat_grey_differs_by_its_levels():
    assert change(look(np.full((40, 40, 3), 100, np.uint8)), look(np.full((40, 40, 3), 130, np.uint8))) == pytest.approx(30)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_a_mixture_of_two_pictures_is_told_with_its_shares(share):
    one, other = texture(6), texture(7)
    mixed = ((1 - share) * one + share * other).round().astype(np.uint8)
    found, left = blend(look(one), look(other), look(mixed))
    assert found == pytest.approx(share, abs=0.02)
    assert left < 0.5


def test_a_third_picture_is_no_mixture_of_two():
    one, other, third = (look(texture(seed)) for seed in (8, 9, 10))
    assert blend(one, other, third)[1] > 0.5 * change(one, third)
    assert resemblance(one, third) < 0.4


def test_luma_and_contrast_are_mean_and_deviation():
    seen = look(np.stack([np.full((32, 32), 60), np.full((32, 32), 120)]).reshape(64, 32)[..., None].repeat(3, 2).astype(np.uint8))
    assert seen.luma == pytest.approx(90)
    assert seen.contrast == pytest.approx(30)
