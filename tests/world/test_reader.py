"""The reader is right on fresh films, says nothing where there is nothing, and takes no notice of what it is told."""

import io

import av
import numpy as np
import pytest

from components.media.write import write_video
from components.world.films import CRF
from components.world.reader import read, score
from components.world.render import render_clips
from components.world.vocabulary import FIELDS


def through_video(frames):
    with av.open(io.BytesIO(write_video(None, frames, 8, crf=CRF))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def blurred(frames, sigma):
    at = np.arange(-6, 7)
    kernel = np.exp(-(at**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    soft = np.pad(frames.astype(float), ((0, 0), (6, 6), (6, 6), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    soft = sum(weight * soft[:, i : i + height] for i, weight in enumerate(kernel))
    soft = sum(weight * soft[:, :, i : i + width] for i, weight in enumerate(kernel))
    return np.round(soft).astype(np.uint8)


def shares(clips, scenes, preset):
    right = [score(clip, scene.fields, preset) for clip, scene in zip(clips, scenes, strict=True)]
    return {field: np.mean([answer[field] for answer in right]) for field in FIELDS}


@pytest.fixture(scope="module")
def demo():
    frames, scenes = render_clips("demo", 64, seed=21)
    return [through_video(clip) for clip in frames], scenes


def test_it_reads_fresh_demo_films_after_encoding(demo):
    assert min(shares(*demo, "demo").values()) >= 0.97


@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_it_reads_soft_demo_clips_as_a_decoder_makes_them(demo, sigma):
    clips, scenes = demo
    assert min(shares([blurred(clip, sigma) for clip in clips[:32]], scenes[:32], "demo").values()) >= 0.95


@pytest.mark.parametrize(("num_frames", "height", "width"), [(9, 32, 32), (17, 64, 64), (9, 96, 128)])
def test_it_reads_other_sizes_and_lengths(num_frames, height, width):
    frames, scenes = render_clips("demo", 24, num_frames=num_frames, height=height, width=width, seed=22)
    assert min(shares([through_video(clip) for clip in frames], scenes, "demo").values()) >= 0.95


def test_a_frozen_clip_has_no_motion(demo):
    clips, scenes = demo
    for clip, scene in zip(clips[:16], scenes, strict=False):
        answer = read(np.repeat(clip[4:5], 9, axis=0))
        assert answer["motion"] is None
        assert answer["camera"] == "still"
        assert answer["colour"] == scene.fields["colour"]
    assert read(clips[0][:1])["motion"] is None


def test_time_reversed_clips_move_the_other_way(demo):
    clips, scenes = demo
    other = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for clip, scene in zip(clips[:16], scenes, strict=False):
        assert read(clip[::-1])["motion"] == other[scene.fields["motion"]]


@pytest.mark.parametrize("sigma", [0, 3])
def test_noise_is_nothing(sigma):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 64, 64, 3), dtype=np.uint8)
    for clip in noise:
        stretched = clip if not sigma else np.clip((blurred(clip, sigma).astype(float) - 128) * 6 + 128, 0, 255).astype(np.uint8)
        assert set(read(stretched).values()) == {None}


def test_a_plain_picture_is_nothing():
    for level in (0, 60, 255):
        assert set(read(np.full((9, 64, 64, 3), level, np.uint8)).values()) == {None}


def test_truths_shuffled_among_clips_are_met_by_chance_only(demo):
    clips, scenes = demo
    met = shares(clips, scenes[1:] + scenes[:1], "demo")
    for field, choices in (("colour", 6), ("shape", 4), ("motion", 4), ("background", 2), ("camera", 3)):
        assert abs(met[field] - 1 / choices) < 0.2


def test_it_reads_the_main_object_of_rich_films_for_the_most_part():
    """Measured over 300 clips of 9 frames: colour 0.95, shape 0.87, motion 0.94, background 0.96, camera 0.97."""
    frames, scenes = render_clips("rich", 48, num_frames=13, seed=23)
    right = shares([through_video(clip) for clip in frames], scenes, "rich")
    bars = {"colour": 0.85, "shape": 0.75, "motion": 0.8, "background": 0.85, "camera": 0.9}
    assert all(right[field] >= bar for field, bar in bars.items()), right
