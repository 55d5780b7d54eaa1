"""What MLflow is told of take-downs."""

import json

from components.registry.takedown import said
from components.registry.tracking import LONGEST_VALUE

REMOVED = [
    {"video_id": f"{number:064x}", "clips": number + 1, "at": f"2026-11-{number % 28 + 1:02d}T12:00:00+0000"} for number in range(90)
]


def test_a_few_take_downs_are_all_told() -> None:
    assert json.loads(said(REMOVED[:3])) == REMOVED[:3]
    assert json.loads(said([])) == []


def test_of_more_than_a_tag_holds_the_newest_are_told_and_the_others_added_up() -> None:
    text = said(REMOVED)
    told = json.loads(text)
    assert LONGEST_VALUE - 200 < len(text) <= LONGEST_VALUE
    assert all(one.keys() == {"video_id", "clips", "at"} for one in told)
    assert told[0]["video_id"] == f"{91 - len(told)} earlier"
    assert sum(one["clips"] for one in told) == sum(one["clips"] for one in REMOVED)
    assert told[1:] == sorted(REMOVED, key=lambda one: str(one["at"]))[-len(told) + 1 :]
