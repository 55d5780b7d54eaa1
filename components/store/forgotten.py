"""The contents that a project must not read again, by their hash alone; while a take-down is under way also what it has to find."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from typing import Any

from components.store.project import Project, write_json

FILE = "forgotten.json"
NAME = f"lineage/{FILE}"  # in the project's folder
LISTS = ("clip_ids", "captions", "places", "evidence")  # of an entry that is open

Entry = dict[str, Any]


def entries(project: Project) -> dict[str, Entry]:
    """Answers the take-downs of a project by video id: `at`, `clips` and `done`; unfinished ones say what is to be found."""
    try:
        found = json.loads((project.folder / NAME).read_text())
    except FileNotFoundError:
        return {}
    return dict(found)


def denied(project: Project) -> set[str]:
    """Answers the video ids that are never to be read again."""
    return set(entries(project))


def write_entry(project: Project, video_id: str, entry: Entry) -> None:
    """Writes one take-down down, in one atomic step."""
    with _writing(project):
        write_json(project.folder / NAME, {**entries(project), video_id: entry})


def merge(project: Project, theirs: Mapping[str, Entry]) -> bool:
    """Adds the take-downs that other machines wrote down, so that none is lost whoever writes last; answers whether ours are theirs now."""
    with _writing(project):
        ours = entries(project)
        both = {**theirs, **ours, **{video_id: _newer(ours[video_id], theirs[video_id]) for video_id in ours.keys() & theirs.keys()}}
        if both != ours:
            write_json(project.folder / NAME, both)
    return both == theirs


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> Entry:
    """Answers one open entry of two of a file: what either found is to be removed."""
    lists = {name: sorted({*one.get(name, []), *other.get(name, [])}) for name in LISTS}
    samples = one.get("samples", {}) | other.get("samples", {})
    return {"at": one["at"], "done": False, "clips": max(one["clips"], other["clips"]), "samples": samples, **lists}


def _newer(one: Entry, other: Entry) -> Entry:
    """Of two entries of a file, an open one stays until that very take-down is done."""
    if one["done"] == other["done"]:
        first, last = sorted((one, other), key=lambda entry: str(entry["at"]))
        return last if last["done"] else joined(first, last)
    done, still_open = (one, other) if one["done"] else (other, one)
    return done if done["at"] == still_open["at"] else still_open


@contextlib.contextmanager
def _writing(project: Project) -> Iterator[None]:
    """Keeps processes of this machine from writing what another one just read."""
    path = project.folder / "locks" / f"{FILE}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
