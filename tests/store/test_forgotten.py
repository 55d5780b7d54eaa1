"""The deny list of a project is the sum of what all machines wrote down that share its storage."""

from pathlib import Path
from typing import Any

import pytest

from components.store import forgotten, mirror
from components.store.project import Project

Machines = tuple[Project, Project]


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    here, there = (Project(tmp_path / name, "films", f"file://{tmp_path}/storage") for name in "ab")
    return here, there


def entry(at: str, done: bool = False, **found: Any) -> dict[str, Any]:
    lists = {"clip_ids": [], "captions": [], "places": [], "evidence": []}
    return {"at": at, "done": True, "clips": 1} if done else {"at": at, "done": False, "clips": 1, "samples": {}, **lists, **found}


def test_an_entry_that_was_not_pushed_outlives_a_pull(machines: Machines) -> None:
    here, there = machines
    forgotten.write_entry(here, "one", entry("2026-11-01", done=True))
    mirror.push(here)
    mirror.pull(there)
    forgotten.write_entry(here, "two", entry("2026-11-02"))  # killed before it was pushed
    forgotten.write_entry(there, "three", entry("2026-11-03"))
    mirror.push(there)
    mirror.pull(here)
    assert forgotten.denied(here) == {"one", "two", "three"}
    mirror.push(here)
    mirror.pull(there)
    assert forgotten.denied(there) == {"one", "two", "three"}
    assert mirror.push(here) == mirror.pull(here) == mirror.push(there) == mirror.pull(there) == []


def test_a_push_does_not_overwrite_what_came_since_the_pull(machines: Machines) -> None:
    here, there = machines
    for project, name in ((here, "one"), (there, "two")):
        forgotten.write_entry(project, name, entry("2026-11-01"))
        mirror.push(project)
    mirror.pull(here)
    assert forgotten.denied(here) == forgotten.denied(there) == {"one", "two"}


@pytest.mark.parametrize("first", [0, 1])
def test_an_open_entry_stays_open_until_that_very_take_down_is_done(machines: Machines, first: int) -> None:
    ours = {"x": entry("2026-11-02", clip_ids=["a"], samples={"s": "real"}), "y": entry("2026-11-02"), "z": entry("2026-11-01")}
    theirs = {"x": entry("2026-11-01", clip_ids=["b"]), "y": entry("2026-11-01", done=True), "z": entry("2026-11-01", done=True)}
    mine, other = ((ours, theirs), (theirs, ours))[first]
    for video_id, one in mine.items():
        forgotten.write_entry(machines[0], video_id, one)
    assert forgotten.merge(machines[0], other) is False
    assert forgotten.entries(machines[0]) == {
        "x": entry("2026-11-01", clip_ids=["a", "b"], samples={"s": "real"}),
        "y": ours["y"],
        "z": theirs["z"],
    }
    assert forgotten.merge(machines[0], forgotten.entries(machines[0])) is True
