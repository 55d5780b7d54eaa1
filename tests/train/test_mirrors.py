import numpy as np
import pytest
import torch

from components.train.mirrors import can_run_backwards, can_turn, shift, turn, turned
from components.world.render import render_clips
from components.world.vocabulary import caption

LEFT = "a red square moves left over a striped background, the camera pans right"


def test_words_turn_with_the_picture():
    assert turned(LEFT, across=True, backwards=False) == "a red square moves right over a striped background, the camera pans left"
    assert turned(LEFT, across=False, backwards=True) == "a red square moves right over a striped background, the camera pans left"
    assert turned(LEFT, across=True, backwards=True) == LEFT
    rising = "a small star moves up and left over a cloudy background, the camera zooms in"
    assert turned(rising, across=True, backwards=False) == "a small star moves up and right over a cloudy background, the camera zooms in"
    assert (
        turned(rising, across=False, backwards=True) == "a small star moves down and right over a cloudy background, the camera zooms out"
    )
    assert turned(LEFT, across=False, backwards=False) == LEFT


def test_only_the_world_s_own_words_may_be_turned():
    assert all(
        can_turn(caption(scene)) for preset in ("demo", "rich") for scene in render_clips(preset, 40, num_frames=2, height=16, width=16)[1]
    )
    assert not can_turn("a man turns left at the corner")
    assert not can_turn("hands shuffling three red cups")


def test_what_grows_does_not_run_backwards():
    assert can_run_backwards(LEFT)
    assert not can_run_backwards("a red square grows over a striped background, the camera is still")


@pytest.mark.parametrize(("across", "backwards"), [(True, False), (False, True), (True, True)])
def test_a_turned_clip_moves_as_its_turned_caption_says(across, backwards):
    """The object's centre of colour moves the way that the words say, for every direction of the demo preset."""
    frames, scenes = render_clips("demo", 24, seed=5)
    cells = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    marks = torch.ones(len(cells), dtype=torch.bool)
    moved = turn(cells, marks & across, marks & backwards)
    for clip, scene in zip(moved, scenes, strict=True):
        if scene.camera != "still":
            continue
        said = turned(caption(scene), across, backwards).split(" moves ")[1].split()[0]
        first, last = _centre(clip[0]), _centre(clip[-1])
        axis = 1 if said in ("left", "right") else 0
        assert (last[axis] > first[axis]) == (said in ("right", "down"))


def _centre(frame: torch.Tensor) -> np.ndarray:
    bright = (frame.float().amax(0) > 120).nonzero().double()
    return bright.mean(0).numpy()


def test_a_shifted_clip_repeats_its_edge():
    cells = torch.arange(16, dtype=torch.uint8).view(1, 1, 1, 4, 4).expand(2, 3, 3, 4, 4)
    moved = shift(cells, torch.tensor([1, 0]), torch.tensor([0, -1]))
    assert moved[0, 2, 1].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert moved[1, 0, 0, 0].tolist() == [1, 2, 3, 3]
