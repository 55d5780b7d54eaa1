"""The samples that people look at: a few of each group, evenly taken from all of the newest model."""

from pathlib import Path
from typing import Any

from components.jobs.run import Run
from components.store import tables
from components.store.choice import evenly
from components.store.filters import quoted

GROUPS = ("seen", "unseen", "real")
A_GROUP = 12
COLUMNS = ("sample_id", "prompt", "rewritten", "group", "truth", "seed", "scores")


def pick_samples(run: Run, model: str) -> list[tuple[dict[str, Any], bytes]]:
    """Answers rows of the samples table and their videos, of a model by its weights."""
    if not tables.exists(run.project, "samples"):
        return []
    table = tables.samples(run.project)
    rows = table.read(COLUMNS, f"model = {quoted(model)}")
    picked = [row for group in GROUPS for row in evenly([row for row in rows if row["group"] == group], A_GROUP)]
    videos = [blob for _, blob in table.read_blobs("video", [row["sample_id"] for row in picked])]
    return list(zip(picked, videos, strict=True))


def write_samples(run: Run, model: str) -> list[Path]:
    """Writes those samples as files and takes away those of an earlier model; answers their paths."""
    folder = run.project.samples
    folder.mkdir(parents=True, exist_ok=True)
    files = {run.project.sample_file(row["sample_id"], row["group"]): video for row, video in pick_samples(run, model)}
    for path, video in files.items():
        path.write_bytes(video)
    for old in set(folder.glob("*.mp4")) - set(files):
        old.unlink(missing_ok=True)
    return list(files)
