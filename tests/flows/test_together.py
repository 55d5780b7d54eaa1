"""Two runs of one command at once on one project: no row doubled, none lost, the rows those of one run alone."""

import subprocess
from pathlib import Path

import pytest

from components.store.project import Project
from components.store.tables import clips, videos
from tests.flows.command import kinora, start

FEW, MORE = ("--profile", "test", "--set", "world.num_films=4"), ("--profile", "test", "--set", "world.num_films=10")
COLUMNS = ["video_id", "split", "keep", "drop_reason", "clip_by", "curated_by"]


def content(folder: Path, *more: str) -> dict[str, object]:
    project = Project(folder / "runs", "demo")
    table = clips(project)
    keys = table.keys()
    assert len(keys) == len(set(keys))
    return {"clips": table.digest([*COLUMNS, *more]), "count": len(keys), "videos": videos(project).digest(["status", "num_clips"])}


def both(folder: Path, *arguments: str) -> None:
    """Runs a command twice at once and waits for both to end well."""
    running: list[subprocess.Popen[str]] = [start(folder, *arguments), start(folder, *arguments)]
    assert [process.wait(900) for process in running] == [0, 0], (folder / "kinora.log").read_text()[-6000:]


@pytest.mark.long
def test_two_ingests_at_once_leave_the_rows_of_one(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
        assert kinora(folder, "run", "ingest", *FEW).returncode == 0
    both(together, "run", "ingest", *MORE)
    assert kinora(alone, "run", "ingest", *MORE).returncode == 0
    assert content(together) == content(alone)


@pytest.mark.long
def test_two_captionings_at_once_leave_the_captions_of_one(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
        for flow in ("ingest", "train_captioner"):
            assert kinora(folder, "run", flow, *MORE).returncode == 0
    both(together, "run", "caption", *MORE)
    assert kinora(alone, "run", "caption", *MORE).returncode == 0
    captions = ("caption", "caption_by", "caption_score")
    assert content(together, *captions) == content(alone, *captions)
