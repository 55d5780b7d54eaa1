"""What each training read, kept in the project: a head in JSON, and its rows as lines of JSON in a gzipped file beside it.

A row is a clip's id, its video's, its scene and span, and the `_by` columns that were read: no pixels and no paths, so it may stay
after a take-down and say what a model once saw.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.store.project import Project, read_json, write_json

KEY_LENGTH = 16
SHOWS_OTHERS = "train_vae"  # the stage whose samples on the way show clips that are held out, which its rows do not name


def head_file(project: Project, stage: str, key: str) -> Path:
    """Answers where the head of a training's reading is kept."""
    return project.folder / "lineage" / stage / f"{key[:KEY_LENGTH]}.json"


def rows_file(project: Project, stage: str, key: str) -> Path:
    """Answers where the rows of a training's reading are kept."""
    return head_file(project, stage, key).with_suffix(".rows.gz")


def read_head(project: Project, stage: str, key: str) -> dict[str, Any] | None:
    """Answers the head of a training's reading; None when there is none or it is torn."""
    return read_json(head_file(project, stage, key))


def write_head(project: Project, head: dict[str, Any]) -> None:
    """Writes a head in one atomic step."""
    write_json(head_file(project, head["stage"], head["key"]), head)


def heads(project: Project) -> list[dict[str, Any]]:
    """Answers the heads of all trainings of a project, oldest first."""
    files = sorted((project.folder / "lineage").glob("*/[!.]*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    found = (read_head(project, path.parent.name, path.stem) for path in files)
    return sorted((head for head in found if head is not None), key=lambda head: str(head.get("started_at", "")))


def write_rows(project: Project, stage: str, key: str, rows: Iterable[dict[str, Any]]) -> None:
    """Writes the rows of a reading in one atomic step; the same rows give the same bytes."""
    path = rows_file(project, stage, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as handle, gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    os.replace(beside, path)


def read_rows(project: Project, stage: str, key: str) -> Iterator[dict[str, Any]]:
    """Answers the rows of a reading one by one; none when they were not kept."""
    path = rows_file(project, stage, key)
    if not path.is_file():
        return
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield json.loads(line)


def ids_of_rows(project: Project, stage: str, key: str) -> list[str] | None:
    """Answers the clips of a reading, sorted as they were read; None when they were not kept."""
    if not rows_file(project, stage, key).is_file():
        return None
    return [row["clip_id"] for row in read_rows(project, stage, key)]


def removed_rows(project: Project, stage: str, key: str) -> list[dict[str, Any]]:
    """Answers what take-downs removed of what a training read: `video_id`, `clips` and `at` of each."""
    head = read_head(project, stage, key)
    removed: list[dict[str, Any]] = head.get("rows_removed", []) if head else []
    return removed


def clips_by_video(project: Project, stage: str, key: str) -> Counter[str]:
    """Answers how many clips of each video a training read."""
    return Counter(row["video_id"] for row in read_rows(project, stage, key) if row["video_id"])
