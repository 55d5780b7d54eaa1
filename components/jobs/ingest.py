"""From footage to rows: renders the synthetic world when there is no source, splits what is new, marks what is gone."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.cluster.rows import map_batches
from components.ingest.scenes import SplitVideo
from components.ingest.sources import Source, find_sources
from components.jobs.run import Run
from components.operations.freshness import Freshness
from components.store.tables import Table, among, clips, distinct, videos

FILES_PER_BATCH = 8
CLIPS_PER_COMMIT = 512


def ingest(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Reads every file that is new, changed or made by other settings; a killed run goes on after its last commit."""
    if run.source is None:
        _render_world(run)
    sources = find_sources(run.footage, run.manifest, run.config.footage)
    videos_table, clips_table = videos(run.project), clips(run.project)
    known = {row["video_id"]: row for row in videos_table.read(["video_id", "uri", "places", "stat", "ingested_by"])}
    todo = [source for source in sources if _is_stale(source, known, freshness.maker)]
    done = 0
    for rows in _commits(run, todo, freshness.maker):
        _write(videos_table, clips_table, rows, freshness.maker)
        done += len(rows)
        run.progress(done, len(todo), "files")
    _mark_missing(videos_table, sources)
    return _summary(videos_table, clips_table, len(todo))


def _render_world(run: Run) -> None:
    from components.world.films import render_films

    world = run.config.world
    render_films(
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
