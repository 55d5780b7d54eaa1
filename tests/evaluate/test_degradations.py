from pathlib import Path

import numpy as np
import pytest

from components.evaluate.degradations import DEGRADATIONS, MUST_RANK, blur, freeze, gain, noise, ranking, shuffle, stutter
from components.evaluate.suite import sharp_reference
from components.world.render import render_clips


def clip(num_frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 9])
def test_a_spoilt_clip_keeps_its_shape(name, num_frames):
    whole = clip(num_frames)
    spoilt = DEGRADATIONS[name](whole)
    assert (spoilt.shape, spoilt.dtype) == (whole.shape, np.uint8)


@pytest.mark.parametrize("num_frames", [5, 9, 17])
def test_shuffle_keeps_the_frames_and_no_neighbours(num_frames):
    whole = np.arange(num_frames, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    order = shuffle(whole)[:, 0, 0, 0].astype(int)
    assert sorted(order) == list(range(num_frames))
    assert (np.abs(np.diff(order)) > 1).all()


def test_freeze_and_stutter_show_frames_again():
    assert (freeze(clip()) == clip()[4]).all()
    np.testing.assert_array_equal(stutter(clip())[1::2], clip()[0:-1:2])


def test_blur_keeps_the_light_and_spreads_a_point_as_wide_as_it_says():
    point = np.zeros((1, 41, 41, 3), np.uint8)
    point[0, 20, 20] = 255
    spread = blur(point, 2 / 41)[0, :, :, 0].astype(float)
    assert spread[20, 20] == pytest.approx(255 / (2 * np.pi * 2**2), abs=1)
    flat = np.full((1, 41, 41, 3), 77, np.uint8)
    np.testing.assert_array_equal(blur(flat), flat)


def test_gain_and_noise_are_of_the_size_they_say():
    flat = np.full((8, 64, 64, 3), 100, np.uint8)
    assert np.unique(gain(flat, 0.1)).tolist() == [90, 110]
    assert (noise(flat, 8).astype(float) - 100).std() == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_the_score_puts_clips_of_the_world_above_their_spoilt_copies(preset):
    clips, _ = render_clips(preset, 20, seed=101, height=48, width=48)
    found = ranking(list(clips), 8, 0.02, sharp_reference(clips), MUST_RANK)
    assert all(result["num_clips"] >= 19 for result in found.values())
    assert all(result["share"] >= 0.95 for result in found.values()), found


def test_the_score_notices_noise_stutter_and_gain_too():
    clips, _ = render_clips("demo", 12, seed=102)
    found = ranking(list(clips), 8, 0.02, sharp_reference(clips), ("stutter", "noise", "gain"))
    assert all(result["share"] >= 0.9 for result in found.values()), found


def test_still_clips_are_not_counted():
    found = ranking([freeze(clip())], 8, 0.02, 1.0)
    assert found["blur"] == {"share": None, "num_clips": 0}


@pytest.mark.slow
def test_the_score_puts_real_clips_above_their_spoilt_copies(repository):
    from components.media.read import UnusableFile, fit, read_frames

    footage = sorted((repository.parent / "shared" / "footage" / "clips").glob("*"))
    if not footage:
        pytest.skip("no footage beside the checkout")

    def first_clip(path: Path) -> np.ndarray | None:
        frames: list[np.ndarray] = []
        try:
            for frame in read_frames(path):
                if frame.seconds * 8 >= len(frames):
                    height, width = fit(frame.height, frame.width, 64)
                    top, left = (height - 64) // 2, (width - 64) // 2
                    frames.append(frame.resized(height, width)[top : top + 64, left : left + 64])
                if len(frames) == 9:
                    return np.stack(frames)
        except UnusableFile:
            pass
        return None

    clips = [found for path in footage if (found := first_clip(path)) is not None]
    found = ranking(clips, 8, 0.02, sharp_reference(clips), MUST_RANK)
    assert found["freeze"]["num_clips"] >= 20
    assert all(result["share"] >= 0.95 for result in found.values()), found
