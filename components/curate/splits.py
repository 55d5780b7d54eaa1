"""Sets the split of each video by the hash of its duplicate group, so that no two copies of a film meet training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "val", "test")
ENOUGH = 3  # groups from which on there is always something to train on and something to look at


def split_videos(groups: Mapping[str, str], unseen: Iterable[str], val_share: float, test_share: float) -> dict[str, str]:
    """Answers train, val or test for each video.

    A group's split depends on its name alone, so new films move nobody; only where chance leaves a small project with nothing
    for val (or for train), the group that is nearest to it steps over.

    Args:
        groups: the duplicate group of each video_id.
        unseen: videos of the synthetic world with combinations that nothing may train on; their groups are test.
    """
    held_out = {groups[video] for video in unseen if video in groups}
    others = sorted({group for group in groups.values() if group not in held_out}, key=place)
    split = {group: _by_place(place(group), val_share, test_share) for group in others} | dict.fromkeys(held_out, "test")
    _fill(split, others)
    return {video: split[group] for video, group in groups.items()}


def place(name: str, salt: str = "split") -> float:
    """Answers a number in [0, 1) that a name always has."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:7], "big") / 2**56


def lends(video_id: str, share: float) -> bool:
    """Tells whether a film with a sidecar lends its words to the captioner's training."""
    return place(video_id, "label") < share


def _by_place(at: float, val_share: float, test_share: float) -> str:
    if at < test_share:
        return "test"
    return "val" if at < test_share + val_share else "train"


def _fill(split: dict[str, str], others: Sequence[str]) -> None:
    """Moves one group to train where there is none, and one to val; `others` are in order of their place."""
    if others and not any(split[group] == "train" for group in others):
        split[others[-1]] = "train"
    if len(others) < ENOUGH or any(split[group] == "val" for group in others):
        return
    trained = [group for group in others if split[group] == "train"]
    split[trained[0] if len(trained) > 1 else others[0]] = "val"
