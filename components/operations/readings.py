"""Pins what a training is about to read: one version of the clips, tagged so that it can be replayed, and the exact rows."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from components.operations.freshness import READ_ROWS, Freshness
from components.registry.lineage import TableRead, lineage_tags
from components.stages import STAGES
from components.store import mirror, readings, tables
from components.store.filters import with_quarantine
from components.store.project import Project

TRAINED_BY = {"captioner": "train_captioner", "video-vae": "train_vae", "text-to-video": "train_dit"}  # kind of model -> stage
BASE_TAG = "kinora.base"  # of a model that was trained further: where the one it began with is registered
SPAN = ("video_id", "scene_index", "start_seconds", "end_seconds")


def tag_of(stage: str, key: str) -> str:
    """Answers the tag that keeps the table version which a training read."""
    return f"{stage}-{key[: readings.KEY_LENGTH]}"


def pin_reading(
    project: Project,
    freshness: Freshness,
    settings: Mapping[str, Any],
    stands_on: Mapping[str, str],
    reads_clips: bool = True,
    base: str | None = None,
) -> tuple[Project, dict[str, Any]]:
    """Answers the project with its clips held at the version that a training reads, and the head that tells of it.

    A training that goes on after a kill finds the version it began with. Where a take-down of other footage removed that, it is given
    the newest with the same rows, those that went to quarantine since among them: other rows would be drawn in another order.

    Args:
        settings: the resolved settings of the run.
        stands_on: digests of the weights of the models it is trained against, by kind.
        reads_clips: False for a training that takes a pretrained model as it is.
        base: the address in the registry of the model that is trained further, which may be another project's.

    Raises:
        ValueError: the rows changed since `freshness` was asked for, or those that the training began with cannot be had any more.
    """
    stage, key = freshness.stage, freshness.key
    tags = {BASE_TAG: base} if base else {}
    head = readings.read_head(project, stage, key)
    if not reads_clips:
        head = head or _head(freshness, settings, stands_on, {}, tags)
        _make_known(project, head)
        return project, head
    clips = tables.clips(project)
    if head is None or not _still_there(clips, head):
        version = clips.tag(tag_of(stage, key))
        try:
            rows, lifted = _rows_at(project, freshness, clips, version, head)
        except ValueError:
            clips.untag(tag_of(stage, key))
            raise
        readings.write_rows(project, stage, key, rows)
        read = {"version": version, "tag": tag_of(stage, key), "rows": len(rows), "rows_digest": freshness.rows_digest}
        read |= {"lifted": lifted} if lifted else {}
        removed = head.get("rows_removed", []) if head else []
        head = _head(freshness, settings, stands_on, {"clips": {**read, "uri": clips.uri}}, tags) | {"rows_removed": removed}
        _make_known(project, head)
    read = head["tables"]["clips"]
    return dataclasses.replace(project, clips_version=int(read["version"]), clips_lifted=tuple(read.get("lifted", ()))), head


def note_weights(project: Project, stage: str, key: str, weights: str, run_id: str | None) -> None:
    """Writes into a training's head what it exported and its run in MLflow."""
    head = readings.read_head(project, stage, key)
    if head is not None:
        readings.write_head(project, {**head, "weights": weights, "run_id": run_id, "finished_at": _now()})


def dataset_of(head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Answers a training's reading as MLflow's dataset input takes it, or None when it read no table."""
    read = head["tables"].get("clips")
    if read is None:
        return None
    return {
        "name": "clips",
        "digest": read["rows_digest"],
        "source": {"uri": read["uri"], "version": read["version"], "tag": read["tag"]},
        "profile": {"rows": read["rows"], "rows_digest": read["rows_digest"]},
        "context": "training",
    }


def _rows_at(
    project: Project, freshness: Freshness, clips: tables.Table, version: int, head: Mapping[str, Any] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Answers what a training reads of a version: all that it began with, if it has, and which clips of it are in quarantine there.

    Raises:
        ValueError: the rows changed, or those that it began with cannot be had, or are not known and may be others.
    """
    stage, key = freshness.stage, freshness.key
    where, columns = READ_ROWS[stage]
    pinned = clips.at(version)
    if pinned.digest(columns, with_quarantine(where)) != freshness.rows_digest:
        raise ValueError(f"the rows that `{stage}` reads changed while it was about to start; hint: run it again")
    now, begun = pinned.keys(where), readings.ids_of_rows(project, stage, key)
    if begun is None:
        has_begun = head is not None or any(project.checkpoints(stage, key).glob("step_*"))
        is_same = not has_begun or len(now) == pinned.count(with_quarantine(where))
    else:
        is_same = set(now) <= set(begun)
    if not is_same:
        raise ValueError(
            f"`{stage}` cannot go on in the order in which it began: clips went into quarantine or came out of it since, and the version "
            f"that it read is gone; hint: another seed (`--set {STAGES[stage].sections[0]}.seed=N`) trains anew"
        )
    lifted = sorted(set(begun or ()) - set(now))
    return clips.at(version, lifted).read(["clip_id", *SPAN, *columns], where), lifted


def _make_known(project: Project, head: dict[str, Any]) -> None:
    """Writes a head, and takes it to the storage at once: other machines keep a training that was killed, as this one does."""
    readings.write_head(project, head)
    mirror.push(project)


def _still_there(clips: tables.Table, head: Mapping[str, Any]) -> bool:
    read = head["tables"].get("clips")
    return bool(read and clips.tags().get(read["tag"]) == read["version"])


def _head(
    freshness: Freshness,
    settings: Mapping[str, Any],
    stands_on: Mapping[str, str],
    read: Mapping[str, Mapping[str, Any]],
    tags_beside: Mapping[str, str],
) -> dict[str, Any]:
    reads = {name: TableRead(int(one["version"]), int(one["rows"]), str(one["rows_digest"])) for name, one in read.items()}
    tags = lineage_tags(settings=settings, tables=reads, makers={freshness.stage: freshness.maker}, upstream=stands_on)
    tags |= {f"kinora.table.{name}.tag": str(one["tag"]) for name, one in read.items()} | dict(tags_beside)
    return {
        "stage": freshness.stage,
        "key": freshness.key,
        "maker": freshness.maker,
        "started_at": _now(),
        "tables": dict(read),
        "stands_on": dict(stands_on),
        "tags": tags | {"kinora.training": f"{freshness.stage}/{freshness.key[: readings.KEY_LENGTH]}"},
        "weights": None,
        "run_id": None,
        "rows_removed": [],
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
