"""A champion and a challenger in one project: measured by the same conditions, walked to their files, and what a take-down leaves."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from components.jobs.evidence import read_evidence
from components.models.weights import digest_folder, load_json, load_tensors
from components.operations.freshness import model_folder, weights_of
from components.registry.models import Kind, download, find, list_versions
from components.store import tables
from components.store.project import Project
from tests.flows.command import kinora

pytestmark = pytest.mark.slow


def ran(folder: Path, *arguments: str) -> str:
    done = kinora(folder, *arguments, "--profile", "test")
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


CHALLENGER = ("--set", "dit.seed=1", "--set", "captioner.seed=1", "--set", "vae.seed=1", "--set", "evaluate.seed=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a champion by hand and a challenger of other seeds; `before.json` is what was measured of the first one alone."""
    folder = tmp_path_factory.mktemp("twice")
    ran(folder, "run")
    project = Project(folder / "runs", "demo")
    for kind in ("text-to-video", "video-vae", "captioner"):
        ran(folder, "promote", kind, "--force")
    first = weights_of("train_dit", project)
    (folder / "before.json").write_text(json.dumps(read_evidence(project, "text-to-video", first)))
    ran(folder, "run", *CHALLENGER)
    return folder


def test_the_champion_is_measured_again_by_its_challengers_conditions(folder: Path) -> None:
    project, before = Project(folder / "runs", "demo"), json.loads((folder / "before.json").read_text())
    first = before["model"]
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


def test_nothing_that_is_referred_to_is_garbage(folder: Path) -> None:
    """Both trainings are registered, so all stays: the challenger's project is fresh and the champion generates."""
    project = Project(folder / "runs", "demo")
    weights = [version.weights for kind in get_args(Kind) for version in list_versions(project, kind)]
    (project.folder / "models" / "train_vae" / "0123456789abcdef").mkdir()
    found = json.loads(ran(folder, "gc", "--json", *CHALLENGER))
    assert [one["name"] for one in found if one["kind"] not in ("drafts", "Ray's temporary folders")] == [
        "models/train_vae/0123456789abcdef"
    ]
    assert "skip" in ran(folder, "plan", *CHALLENGER)
    assert "run " not in ran(folder, "plan", *CHALLENGER)
    ran(folder, "generate", "a red square moving left", "-o", "red.mp4")
    for kind in get_args(Kind):
        for version in list_versions(project, kind):
            assert digest_folder(download(project, version)) in weights


def test_a_registered_model_is_trained_further_by_adapters(folder: Path) -> None:
    project = Project(folder / "runs", "demo")
    second = next(version for version in list_versions(project, "text-to-video") if version.number == 2)
    ran(folder, "run", "train_dit", *CHALLENGER, "--set", f"dit.finetune=models:/{second.name}/2", "--set", "dit.lora_rank=2")
    found = model_folder("train_dit", project)
    assert found is not None
    assert digest_folder(found) != second.weights
    assert load_json(found, "dit")["base"] == {"weights": second.weights, "lora_rank": 2}
    before, after = (load_tensors(place, "dit") for place in (download(project, second), found))
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(before[name].ndim == 2 for name in changed)
    ran(folder, "generate", "a red square moving left", "-o", "further.mp4", "--model", str(found))


def test_a_file_is_walked_to_its_models_and_back_and_taken_down(folder: Path) -> None:
    project = Project(folder / "runs", "demo")
    champion = json.loads(ran(folder, "lineage", "champion", "--json"))
    assert [below["kind"] for below in champion["stands_on"]] == ["video-vae", "captioner"]
    assert [one["version"] for one in (champion, *champion["stands_on"])] == [1, 1, 1]
    assert "champion" in champion["aliases"]
    tags = find(project, "text-to-video", "champion").tags  # type: ignore[union-attr]
    assert {tags[f"kinora.upstream.{kind}.version"] for kind in ("video-vae", "captioner")} == {"1"}
    (read,) = champion["tables"]
    assert (tags["kinora.table.clips.version"], tags["kinora.table.clips.rows"]) == (str(read["version"]), str(read["rows"]))
    assert read["kept"]
    assert sum(one["clips"] for one in champion["files"]) == read["rows"]
    name = Path(champion["files"][0]["uri"]).name
    (file,) = json.loads(ran(folder, "lineage", name, "--json"))
    assert {(one["kind"], one["version"]) for one in file["models"]} >= {("text-to-video", 1), ("text-to-video", 2), ("video-vae", 1)}

    clips = tables.clips(project)
    keys = [clip["clip_id"] for clip in file["clips"]]
    needles = [blob[len(blob) // 2 :][:40] for _, blob in clips.read_blobs("video", keys)]
    needles += [latents.tobytes()[64:104] for latents in clips.read_tensor("latents", keys)]
    assert files_with(folder, needles)
    taken = json.loads(ran(folder, "forget", name, "--yes", "--json"))
    assert {(one["model"], one["version"]) for one in taken[0]["models"]} >= {("demo-text-to-video", 1), ("demo-text-to-video", 2)}
    assert files_with(folder, needles) == []
    assert not list(project.artifacts.rglob("train_vae.png")), "MLflow let go of the pictures"
    assert "rows removed" in ran(folder, "lineage", "champion")
    assert "rows that it read were taken down" in ran(folder, "plan", *CHALLENGER)
    ran(folder, "run", "ingest", "--set", "clip.crf=13")  # every file is read again
    assert file["video_id"] not in {row["video_id"] for row in clips.read(["video_id"])}
    assert tables.videos(project).count("status = 'forgotten'") == 1
    ran(folder, "generate", "a red square moving left", "-o", "red.mp4")


def files_with(folder: Path, needles: list[bytes]) -> list[str]:
    """Greps every file of all projects and of MLflow."""
    places = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in places if any(needle in data for data in [path.read_bytes()] for needle in needles)]
