"""From footage to rows: renders the synthetic world when there is no source, splits what is new, marks what is gone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from components.cluster.rows import map_batches
from components.ingest.scenes import SplitVideo
from components.ingest.shapes import Shapes
from components.ingest.sources import Source, find_sources, require_accepted
from components.jobs.rows import announced
from components.jobs.run import Run
from components.jobs.shapes import shapes_of
from components.operations.freshness import Freshness
from components.operations.shapes import clip_shapes
from components.store import forgotten, tables

FILES_PER_BATCH = 8
CLIPS_PER_COMMIT = 512
KNOWN = ("video_id", "uri", "places", "stat", "status", "ingested_by")


def ingest(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Reads every file that is new, changed or was read by other settings; a killed run goes on after its last commit."""
    if run.source is None:
        _render_world(run)
    videos, clips = tables.videos(run.project), tables.clips(run.project)
    known = {row["video_id"]: row for row in videos.read(KNOWN)}
    found = find_sources(run.footage, run.manifest, run.config.footage, known.values())
    taken_down = forgotten.denied(run.project)
    sources = [source for source in found if source.video_id not in taken_down]
    todo = [source for source in sources if _is_stale(source, known.get(source.video_id), freshness.maker)]
    shapes = shapes_of(run, sources, todo, freshness.maker) if todo else None
    done = 0
    for split in _commits(run, todo, shapes):
        _write(videos, clips, _allowed(run, split), freshness.maker)
        done += len(split)
        run.progress(done, len(todo), "files split into scenes and clips")
    gone = _mark_missing(videos, sources, known)
    require_accepted(videos.read(["uri", "status", "reason"]))
    return _result(run, videos, clips, len(todo), gone)


def _render_world(run: Run) -> None:
    from components.world.films import render_films

    world = run.config.world
    films = render_films(
        run.footage,
        world.preset,
        world.num_films,
        seed=world.seed,
        unseen_films=world.unseen_films,
        workers=2,
        scenes=world.scenes_per_film,
        height=world.height,
        width=world.width,
        fps=world.fps,
        frames_per_scene=(world.min_scene_frames, world.max_scene_frames),
        gradual_share=world.gradual_share,
        on_film=lambda done, total: run.progress(done, total, "films rendered"),
    )
    wanted = {film.with_suffix(suffix) for film in films for suffix in (".mp4", ".json")}
    for surplus in set(run.footage.iterdir()) - wanted:  # of a world that had more films
        surplus.unlink()


def _allowed(run: Run, split: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out what was taken down while it was being split."""
    denied = forgotten.denied(run.project)
    return [entry for entry in split if entry["video"]["video_id"] not in denied]


def _is_stale(source: Source, row: Mapping[str, Any] | None, maker: str) -> bool:
    if row is None or row["ingested_by"] != maker or row["status"] == "missing":
        return True
    return (row["uri"], row["stat"], tuple(row["places"])) != (source.uri, source.stat, source.places)


def _commits(run: Run, todo: Sequence[Source], shapes: Shapes | None) -> Iterator[list[dict[str, Any]]]:
    """Splits files on Ray and yields them, some hundred clips at a time."""
    readable = [source.as_dict() for source in todo if source.status == "found"]
    refused = [{"video": _refused(source), "clips": []} for source in todo if source.status != "found"]
    waiting: list[dict[str, Any]] = refused
    batches = [readable[at : at + FILES_PER_BATCH] for at in range(0, len(readable), FILES_PER_BATCH)]
    caption = run.config.caption
    begun = announced(batches, lambda: run.progress(0, len(todo), "files split into scenes and clips"))
    answers = map_batches(SplitVideos, (run.config, shapes), begun, num_actors=caption.num_actors, cpus_per_actor=caption.cpus_per_actor)
    for _, split in answers:
        waiting += split
        if sum(len(entry["clips"]) for entry in waiting) >= CLIPS_PER_COMMIT:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class SplitVideos:
    """`SplitVideo` over a batch of files, for Ray's actors."""

    def __init__(self, config: Any, shapes: Shapes | None) -> None:
        self.split = SplitVideo(config, shapes)

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self.split(source) for source in batch]


def _refused(source: Source) -> dict[str, Any]:
    said = source.as_dict()
    kept = ("video_id", "uri", "stat", "status", "reason", "kind", "num_bytes", "source", "licence", "rights", "label_caption", "label_by")
    return {**{name: said[name] for name in kept}, "places": list(source.places), "num_clips": 0}


def _write(videos: tables.Table, clips: tables.Table, split: Sequence[Mapping[str, Any]], maker: str) -> None:
    """Writes clips first and the row of their video last, so a kill between them only means doing the video again."""
    ids = [entry["video"]["video_id"] for entry in split]
    there = clips.read(["clip_id"], f"{tables.among('video_id', ids)} AND {tables.distinct('clip_by', maker)}")
    if there:
        clips.delete(f"{tables.among('video_id', ids)} AND {tables.distinct('clip_by', maker)}")
    clips.append([{**clip, "clip_by": maker} for entry in split for clip in entry["clips"]])
    videos.delete(tables.among("video_id", ids))
    videos.append([{**entry["video"], "ingested_by": maker} for entry in split])


def _mark_missing(videos: tables.Table, sources: Sequence[Source], known: Mapping[str, Mapping[str, Any]]) -> int:
    """A file that vanished stays as a row; its clips were read when it was there and stay too."""
    here = {source.video_id for source in sources}
    gone = [row["video_id"] for row in known.values() if row["video_id"] not in here and row["status"] not in ("missing", "forgotten")]
    videos.update([{"video_id": key, "status": "missing", "reason": "the file is no longer where it was"} for key in gone])
    return len(gone)


def _result(run: Run, videos: tables.Table, clips: tables.Table, read: int, gone: int) -> dict[str, Any]:
    rows = videos.read(["status", "reason", "uri"])
    status = Counter(row["status"] for row in rows)
    refused = [
        {"file": row["uri"].rsplit("/", 1)[-1], "status": row["status"], "reason": row["reason"]}
        for row in rows
        if row["status"] != "accepted"
    ]
    shown = {"not-accepted": refused} if refused else {}
    if run.config.clip.max_shapes > 1:
        shown["shapes"] = [asdict(shape) for shape in clip_shapes(run.config, run.project).shapes]
    return {
        "summary": f"{read} files read, {status['accepted']} accepted, {len(refused)} not, {clips.count()} clips",
        "files": dict(status),
        "clips": clips.count(),
        "vanished": gone,
        "show": {"tables": shown} if shown else {},
    }
