from collections import Counter

import pytest
import torch

from components.diffusion.tasks import TASKS, deal_tasks, kept_frames

NONE = dict.fromkeys(TASKS, 0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(task: str, frames: int) -> list[list[int]]:
    return [kept_frames(task, frames, generator(seed)).nonzero().flatten().tolist() for seed in range(60)]


def test_a_batch_has_each_task_as_often_as_its_share_says():
    shares = NONE | {"text": 2.0, "first_frame": 1.0, "suffix": 1.0}
    for seed in range(5):
        assert Counter(deal_tasks(shares, 32, generator(seed))) == {"text": 16, "first_frame": 8, "suffix": 8}
    assert deal_tasks(shares, 32, generator(1)) != deal_tasks(shares, 32, generator(2))


def test_no_task_at_all_is_refused():
    with pytest.raises(ValueError, match=r"`dit.tasks` gives no task a share; hint: .*dit.tasks.text=1"):
        deal_tasks(NONE, 4, generator())


def test_a_prefix_and_a_suffix_begin_and_end_the_clip_and_leave_a_frame_to_make():
    for kept in drawn("prefix", 5):
        assert kept == list(range(len(kept)))
        assert 1 <= len(kept) <= 4
    for kept in drawn("suffix", 5):
        assert kept == list(range(5 - len(kept), 5))
    assert {len(kept) for kept in drawn("prefix", 5)} == {1, 2, 3, 4}


def test_both_ends_are_kept_alike():
    assert {tuple(kept) for kept in drawn("first_and_last", 5)} == {(0, 4), (0, 1, 3, 4)}
    assert {tuple(kept) for kept in drawn("first_and_last", 3)} == {(0, 2)}


def test_key_frames_lie_anywhere():
    found = drawn("key_frames", 4)
    assert {len(kept) for kept in found} == {1, 2, 3}
    assert {frame for kept in found for frame in kept} == {0, 1, 2, 3}


@pytest.mark.parametrize("task", TASKS)
def test_something_is_left_to_make_however_short_the_clip(task):
    for frames in (1, 2, 3, 9):
        assert all(len(kept) < frames for kept in drawn(task, frames))
    assert drawn("text", 9)[0] == drawn(task, 1)[0] == []
