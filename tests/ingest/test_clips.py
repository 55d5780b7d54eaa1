"""Clips: the frames nearest to the ticks of the clip rate, spread evenly, never across a cut, with the words of their scene."""

from dataclasses import dataclass

import numpy as np
import pytest

from components.config import load_config
from components.ingest.clips import Reel, Words, cut_clips, find_scenes, frame_interval, thin
from components.ingest.shapes import Piece, one_shape
from components.ingest.transitions import Transition

CLIP = load_config().clip.model_copy(update={"num_frames": 5, "fps": 8, "height": 8, "width": 8})


@dataclass
class Numbered:
    """A frame whose pixels are its number."""

    index: int
    seconds: float
    height: int = 8
    width: int = 8

    def resized(self, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), self.index, np.uint8)


def film(seconds) -> list[Numbered]:
    return [Numbered(i, float(at)) for i, at in enumerate(seconds)]


def cut(ticks: int):
    return one_shape(CLIP).cut(Piece(8, 8, ticks))


def wound(seconds, max_bytes=10**9) -> Reel:
    reel = Reel(CLIP.fps, (CLIP.height, CLIP.width), max_bytes)
    for frame in film(seconds):
        reel.offer(frame)
    reel.finish(frame_interval(list(seconds)))
    return reel


@pytest.mark.parametrize(("rate", "start"), [(8, 0.0), (25, 1.075), (24, 0.0), (30000 / 1001, 0.033), (10, 0.0), (2, 0.0)])
def test_each_tick_takes_the_frame_nearest_in_time(rate, start):
    seconds = start + np.arange(60) / rate
    reel = wound(seconds)
    for tick, frame in reel.ticks:
        at = start + tick / CLIP.fps
        assert abs(seconds[frame] - at) <= np.abs(seconds - at).min() + 1e-5
    assert [tick for tick, _ in reel.ticks] == list(range(len(reel.ticks)))
    assert set(reel.pictures) == {frame for _, frame in reel.ticks}


def test_a_second_of_film_has_nine_ticks_at_eight_a_second_where_it_is_filled():
    assert len(wound(np.arange(25) / 25).ticks) == 9
    assert len(wound(np.arange(24) / 25).ticks) == 8
    assert len(wound(np.arange(9) / 8).ticks) == 9


def test_a_hole_in_a_film_is_not_filled_with_repeats():
    seconds = np.concatenate([np.arange(8) / 8, 100 + np.arange(8) / 8])
    reel = wound(seconds)
    assert len(reel.ticks) == 16
    windows, _, longest = reel.windows(list(seconds), find_scenes(list(seconds), [], 0.0), 0.0, cut)
    assert longest == 8
    assert len(windows) == 1


def test_no_clip_crosses_a_cut_or_touches_a_dissolve():
    seconds = list(np.arange(60) / 8)
    transitions = [Transition("cut", 13, 12), Transition("dissolve", 25, 30), Transition("cut", 35, 34)]
    scenes = find_scenes(seconds, transitions, trim_gradual_seconds=0.125)
    assert [(scene.first, scene.last, scene.transition) for scene in scenes] == [
        (0, 12, "start"), (13, 24, "cut"), (31, 34, "dissolve"), (35, 59, "cut"),
    ]  # fmt: skip
    windows, short, _ = wound(seconds).windows(seconds, scenes, 0.0, cut)
    assert short == 1
    taken = [set(window.frames) for window in windows]
    for frames, window in zip(taken, windows, strict=True):
        scene = scenes[window.scene]
        assert scene.first <= min(frames)
        assert max(frames) <= scene.last
    assert not set.union(*taken) & set(range(24, 32))
    assert sum(map(len, taken)) == len(set.union(*taken))


def test_a_film_too_long_to_be_held_gives_the_same_clips_by_being_read_again():
    seconds = list(np.arange(200) / 25)
    scenes = find_scenes(seconds, [Transition("cut", 90, 89)], 0.0)
    held, let_go = wound(seconds), wound(seconds, max_bytes=CLIP.height * CLIP.width * 3 * 4)
    assert let_go.full
    assert not let_go.pictures
    windows, _, _ = let_go.windows(seconds, scenes, 0.0, cut)
    once = list(cut_clips(windows, held.pictures, None))
    twice = list(cut_clips(windows, {}, iter(film(seconds))))
    assert len(once) == len(windows) == 8
    assert all((a == b).all() for a, b in zip(once, twice, strict=True))
    assert [tuple(clip[:, 0, 0, 0]) for clip in once] == [window.frames for window in windows]


def test_thinning_keeps_windows_from_all_over_the_film():
    windows = list(range(100))
    assert thin(windows, 200) == windows
    assert thin(windows, 4) == [0, 25, 50, 75]


def test_a_clip_takes_the_words_of_the_scene_it_lies_in_and_of_no_other(films):
    path, said = films["demo"][0]
    words = Words({"label_caption": "of the whole file", "label_by": "manifest:1", "sidecar": str(path.with_suffix(".json"))})
    for number, scene in enumerate(said["scenes"]):
        found = words.of(scene["start_seconds"], scene["end_seconds"])
        assert found["label_caption"] == scene["caption"]
        assert found["label_by"].startswith("sidecar:")
        assert f'"scene": {number}' in found["truth"]
    middle = said["scenes"][1]["start_seconds"]
    assert words.of(middle - 0.5, middle + 0.5) == {"label_caption": None, "label_by": None, "truth": None}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": "kinora-world"}', '{"format": "kinora-world", "scenes": [1], "held_out": 0}']
)
def test_a_sidecar_that_is_torn_or_of_somebody_else_says_nothing(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    words = Words({"label_caption": "a cat", "label_by": "manifest:1", "sidecar": str(tmp_path / "a.json")})
    assert words.of(0.0, 1.0) == {"label_caption": "a cat", "label_by": "manifest:1", "truth": None}
