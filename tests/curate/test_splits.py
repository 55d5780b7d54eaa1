"""Splits: set by the group's name alone, copies together, unseen films for testing only, and small projects have all they need."""

import pytest

from components.curate.splits import lends, place, split_videos


def groups(count: int) -> dict[str, str]:
    return {f"video-{i}": f"video-{i}" for i in range(count)}


def test_shares_are_about_as_asked():
    split = list(split_videos(groups(4000), [], 0.05, 0.1).values())
    assert split.count("val") / 4000 == pytest.approx(0.05, abs=0.015)
    assert split.count("test") / 4000 == pytest.approx(0.1, abs=0.02)


def test_new_films_move_no_old_one():
    before, after = split_videos(groups(200), [], 0.05, 0.05), split_videos(groups(400), [], 0.05, 0.05)
    assert {name: after[name] for name in before} == before


def test_copies_share_a_split():
    copies = {f"copy-{i}": f"video-{i % 50}" for i in range(500)}
    split = split_videos(copies, [], 0.2, 0.2)
    assert all(split[name] == split[f"copy-{i % 50}"] for i, name in enumerate(copies))


def test_films_with_unseen_combinations_are_test_with_all_their_copies():
    split = split_videos({**groups(50), "copy": "video-7"}, ["video-7"], 0.1, 0.0)
    assert split["video-7"] == split["copy"] == "test"
    assert list(split.values()).count("test") == 2


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.4, 0.4)])
def test_there_is_always_something_to_train_on_and_from_three_films_on_something_to_look_at(count, shares):
    split = list(split_videos(groups(count), [], *shares).values())
    assert "train" in split
    assert count < 3 or "val" in split


def test_nothing_has_no_split():
    assert split_videos({}, [], 0.1, 0.1) == {}


def test_the_labelled_share_is_drawn_by_name():
    assert sum(lends(f"video-{i}", 0.25) for i in range(4000)) / 4000 == pytest.approx(0.25, abs=0.03)
    assert all(lends(f"video-{i}", 0.5) for i in range(400) if lends(f"video-{i}", 0.25))
    assert not lends("video", 0.0)
    assert lends("video", 1.0)
    assert place("video", "label") != place("video")
