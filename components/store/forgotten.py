"""The contents that a project must not read again, by their hash alone; while a take-down is under way also what it has to find."""

import json
from typing import Any

from components.store.project import Project, write_json

FILE = "forgotten.json"


def entries(project: Project) -> dict[str, dict[str, Any]]:
    """Answers the take-downs of a project by video id: `at`, `clips` and `done`; unfinished ones say what is to be found."""
    try:
        found = json.loads((project.folder / "lineage" / FILE).read_text())
    except FileNotFoundError:
        return {}
    return dict(found)


def denied(project: Project) -> set[str]:
    """Answers the video ids that are never to be read again."""
    return set(entries(project))


def write_entry(project: Project, video_id: str, entry: dict[str, Any]) -> None:
    """Writes one take-down down, in one atomic step; the caller holds the lock `forget`."""
    write_json(project.folder / "lineage" / FILE, {**entries(project), video_id: entry})
