"""Walks from a model version to the files it was made from, and from a file to the models that read it."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from components.operations.readings import BASE_TAG, TRAINED_BY
from components.registry import models
from components.registry.takedown import REMOVED_TAG
from components.registry.tracking import tracking_uri
from components.store import forgotten, readings, tables
from components.store.filters import among, quoted
from components.store.project import Project

FACTS = ("video_id", "uri", "places", "source", "licence", "rights", "status")
CLIP_FACTS = (
    "clip_id",
    "video_id",
    "scene_index",
    "start_seconds",
    "end_seconds",
    "split",
    "keep",
    "drop_reason",
    "caption",
    "duplicate_of",
)
SHORTEST_ID = 8
ID_LENGTH = 64


class UnknownFileError(ValueError):
    """Nothing of that name in the project; the message says what was looked for."""


def has_registry(project: Project) -> bool:
    """Answers whether anything was ever told MLflow; asking an SQLite file that is not there would make it, which takes seconds."""
    uri = tracking_uri(project)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def versions_of(project: Project) -> list[models.Version]:
    """Answers every registered version of a project, the text-to-video models first; none before there is a registry."""
    if not has_registry(project):
        return []
    return [version for kind in reversed(get_args(models.Kind)) for version in models.list_versions(project, kind)]


def model_lineage(project: Project, kind: str, reference: str) -> dict[str, Any]:
    """Walks from a model version to the models it stands on, the rows it read and the files these came from.

    Args:
        reference: an alias, a number or a `models:/` address.
    """
    known = {found.weights: found for found in versions_of(project)}
    if not known:
        raise models.ModelNotFoundError(
            f"project `{project.name}` has no registered models yet; hint: `kinora run --project {project.name}` trains and registers them"
        )
    version = models.lookup(project, kind, reference)  # type: ignore[arg-type]
    known[version.weights] = version
    return _of_model(project, version.kind, version.weights, known)


def file_lineage(project: Project, text: str) -> list[dict[str, Any]]:
    """Walks from a file to its clips and to every model that read one of them, directly or through a model below.

    Args:
        text: a path, a file's name, or the id of a video or a clip.

    Raises:
        UnknownFileError: nothing of that name.
    """
    heads, versions, taken = readings.heads(project), versions_of(project), forgotten.entries(project)
    counts = {head["key"]: readings.clips_by_video(project, head["stage"], head["key"]) for head in heads}
    return [_of_file(project, video_id, heads, counts, versions, taken.get(video_id)) for video_id in find_videos(project, text)]


def find_videos(project: Project, text: str) -> list[str]:
    """Answers the video ids that a person's words mean, among the videos of a project and its take-downs.

    Raises:
        UnknownFileError: nothing of that name.
    """
    taken = forgotten.entries(project)
    rows = tables.videos(project).read(["video_id", "uri", "places"]) if tables.exists(project, "videos") else []
    named = {row["video_id"]: [row["uri"] or "", *(row["places"] or [])] for row in rows}
    for video_id, entry in taken.items():
        named[video_id] = [*named.get(video_id, []), *entry.get("places", [])]
    place = str(Path(text).resolve())
    for matches in (
        lambda video_id, places: text == video_id or (len(text) >= SHORTEST_ID and video_id.startswith(text)),
        lambda video_id, places: place in places or text in places,
        lambda video_id, places: os.sep not in text and any(Path(name).name == text for name in places),
    ):
        if found := sorted(video_id for video_id, places in named.items() if matches(video_id, places)):
            return found
    if tables.exists(project, "clips") and (rows := tables.clips(project).read(["video_id"], f"clip_id = {quoted(text)}")):
        return [row["video_id"] for row in rows]
    if Path(text).is_file():
        from components.models.weights import sha256_of

        video_id = sha256_of(Path(text))
        if video_id in named:
            return [video_id]
    raise UnknownFileError(
        f"project `{project.name}` knows no file `{text}`; hint: a path, a file's name, or an id that `kinora show clips` prints"
    )


def _of_model(project: Project, kind: str, weights: str, known: Mapping[str, models.Version]) -> dict[str, Any]:
    version = known.get(weights)
    kept = next((head for head in reversed(readings.heads(project)) if head.get("weights") == weights), None)
    tags = dict(version.tags) if version else dict((kept or {}).get("tags", {}))
    head = kept or _head_of_tags(tags)
    stands_on = head["stands_on"]
    return {
        "kind": kind,
        "model": models.registered_name(project, kind),
        "version": version.number if version else None,
        "base": tags.get(BASE_TAG),
        "aliases": list(version.aliases) if version else [],
        "verdict": tags.get(models.VERDICT_TAG),
        "weights": weights,
        "training": {
            "stage": TRAINED_BY[kind],
            "key": head["key"],
            "started_at": head["started_at"],
            "run_id": head["run_id"] or (version.run_id if version else None),
        },
        "code": {name: tags.get(f"kinora.code.{name}") for name in ("version", "commit", "changed")},
        "settings": tags.get("kinora.settings"),
        "maker": tags.get(f"kinora.maker.{TRAINED_BY[kind]}"),
        "tables": [_table(project, name, read) for name, read in head["tables"].items()],
        "rows_removed": head["rows_removed"],
        "files": _files(project, kept) if kept else None,
        "stands_on": [_of_model(project, below, stands_on[below], known) for below in reversed(TRAINED_BY) if stands_on.get(below)],
    }


def _head_of_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """What a version's tags say of its training, where the project's own notes of it are elsewhere or older than they are kept."""
    place, told = "kinora.table.clips.", "kinora.training" in tags  # an earlier Kinora named models that stand beside, not below
    read = {name: tags.get(place + name) for name in ("version", "rows", "digest", "tag")}
    tables_read = {}
    if told and read["version"] and read["rows"]:
        numbers = {"version": int(read["version"]), "rows": int(read["rows"])}
        tables_read = {"clips": {**numbers, "rows_digest": read["digest"], "tag": read["tag"], "uri": None}}
    removed = json.loads(tags.get(REMOVED_TAG, "[]"))
    return {
        "key": tags.get("kinora.training", "/").partition("/")[2] or None,
        "started_at": None,
        "run_id": None,
        "tables": tables_read,
        "stands_on": {kind: tags[f"kinora.upstream.{kind}"] for kind in TRAINED_BY if told and f"kinora.upstream.{kind}" in tags},
        "rows_removed": removed if isinstance(removed, list) else [],
    }


def _table(project: Project, name: str, read: Mapping[str, Any]) -> dict[str, Any]:
    kept = tables.exists(project, name) and tables.clips(project).tags().get(read["tag"]) == read["version"]
    return {"table": name, **read, "kept": kept}


def _files(project: Project, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files of a reading, those with most clips first, with what is known of them now."""
    counts: Counter[str] = Counter()
    scenes: dict[str, set[int]] = {}
    for row in readings.read_rows(project, head["stage"], head["key"]):
        if row["video_id"]:
            counts[row["video_id"]] += 1
            scenes.setdefault(row["video_id"], set()).add(row["scene_index"])
    facts = {row["video_id"]: row for row in tables.videos(project).read(FACTS)} if tables.exists(project, "videos") else {}
    taken = forgotten.entries(project)
    found = []
    for video_id, clips in sorted(counts.items(), key=lambda item: ((facts.get(item[0]) or {}).get("uri") or "", item[0])):
        known = facts.get(video_id) or dict.fromkeys(FACTS)
        removed = {"rows_removed": taken[video_id]["at"]} if video_id in taken else {}
        found.append({**known, "video_id": video_id, "clips": clips, "scenes": len(scenes[video_id]), **removed})
    return found


def _of_file(
    project: Project,
    video_id: str,
    heads: list[dict[str, Any]],
    counts: Mapping[str, Counter[str]],
    versions: list[models.Version],
    taken: Mapping[str, Any] | None,
) -> dict[str, Any]:
    rows = tables.videos(project).read(FACTS, f"video_id = {quoted(video_id)}") if tables.exists(project, "videos") else []
    clips = tables.clips(project).read(CLIP_FACTS, f"video_id = {quoted(video_id)}") if tables.exists(project, "clips") else []
    by_weights = {version.weights: version for version in versions}
    read = [_reader(project, head, by_weights, counts[head["key"]][video_id], None) for head in heads if counts[head["key"]][video_id]]
    below = {one["weights"]: one["kind"] for one in read if one["weights"]}
    for head in heads:
        through = [below[digest] for digest in head["stands_on"].values() if digest in below]
        if through and not counts[head["key"]][video_id]:
            read.append(_reader(project, head, by_weights, 0, through))
    copies = {row["duplicate_of"] for row in clips if row["duplicate_of"]}
    ids = [row["clip_id"] for row in clips]
    if ids or copies:
        others = tables.clips(project).read(["video_id"], f"{among('duplicate_of', ids)} OR {among('clip_id', sorted(copies))}")
        copies = {row["video_id"] for row in others if row["video_id"] != video_id}
    facts = rows[0] if rows else {**dict.fromkeys(FACTS), "status": "forgotten" if taken else None}
    return {
        **facts,
        "video_id": video_id,
        "clips": clips,
        "copies": sorted(copies),
        "models": read,
        "rows_removed": {"at": taken["at"], "clips": taken["clips"], "done": taken["done"]} if taken else None,
    }


def _reader(
    project: Project, head: Mapping[str, Any], versions: Mapping[str, models.Version], clips: int, through: list[str] | None
) -> dict[str, Any]:
    kind = next(kind for kind, stage in TRAINED_BY.items() if stage == head["stage"])
    version = versions.get(head.get("weights") or "")
    return {
        "kind": kind,
        "model": models.registered_name(project, kind),
        "version": version.number if version else None,
        "aliases": list(version.aliases) if version else [],
        "weights": head.get("weights"),
        "training": f"{head['stage']}/{head['key'][: readings.KEY_LENGTH]}",
        "clips": clips,
        "through": through,
    }
