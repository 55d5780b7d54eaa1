"""A challenger that is judged by other conditions than the champion was: the champion is measured again by the same."""

import json
from pathlib import Path

import pytest

from components.jobs.evidence import read_evidence
from components.operations.freshness import weights_of
from components.registry.models import find
from components.store.project import Project
from tests.flows.command import kinora

pytestmark = pytest.mark.slow


def ran(folder: Path, *arguments: str) -> str:
    done = kinora(folder, *arguments, "--profile", "test")
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_champion_is_measured_again_by_its_challengers_conditions(tmp_path: Path) -> None:
    ran(tmp_path, "run")
    project = Project(tmp_path / "runs", "demo")
    for kind in ("text-to-video", "video-vae", "captioner"):
        ran(tmp_path, "promote", kind, "--force")
    first = weights_of("train_dit", project)
    before = read_evidence(project, "text-to-video", first)
    assert before is not None

    ran(tmp_path, "run", "--set", "dit.seed=1", "--set", "captioner.seed=1", "--set", "vae.seed=1", "--set", "evaluate.seed=5")
    second = weights_of("train_dit", project)
    champion = find(project, "text-to-video", "champion")
    assert champion is not None
    assert champion.weights == first != second
    for kind, stage in (("text-to-video", "train_dit"), ("video-vae", "train_vae"), ("captioner", "train_captioner")):
        holder = find(project, kind, "champion")  # type: ignore[arg-type]
        assert holder is not None
        theirs, ours = read_evidence(project, kind, holder.weights), read_evidence(project, kind, weights_of(stage, project))
        assert theirs is not None
        assert ours is not None
        assert theirs["measured_by"] == ours["measured_by"] != before["measured_by"]
    verdicts = json.loads((project.folder / "evaluations" / "verdicts.json").read_text())
    assert verdicts["comparison"]["following"]["pairs"] == 8
    reasons = [reason for entry in verdicts["verdicts"] for reason in entry["reasons"]]
    assert not any("measured with other prompts" in reason for reason in reasons)
    assert "Against the champion, pair by pair" in (project.folder / "report.html").read_text()
