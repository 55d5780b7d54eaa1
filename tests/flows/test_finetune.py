"""A registered model trained further by adapters: on a new project's footage, which nobody described, and on its own, which grew."""

import json
from pathlib import Path

import pytest

from components.models.weights import digest_folder, load_json
from components.operations.freshness import model_folder, weights_of
from components.registry.models import download, list_versions
from components.store.project import Project
from components.store.tables import clips
from components.world.films import render_films
from tests.flows.command import kinora

pytestmark = pytest.mark.slow

FURTHER = ("--set", "dit.finetune=models:/demo-text-to-video/1", "--set", "dit.lora_rank=2")
NEW = ("--project", "new", *FURTHER)


def ran(folder: Path, *arguments: str) -> str:
    done = kinora(folder, *arguments, "--profile", "test")
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the synthetic world, and a folder `films` of others without a word about them."""
    folder = tmp_path_factory.mktemp("further")
    ran(folder, "run")
    render_films(folder / "films", "demo", 8, seed=77, scenes=4, height=32, width=32)
    for sidecar in (folder / "films").rglob("*.json"):
        sidecar.unlink()
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    demo = Project(folder / "runs", "demo")
    (version,) = list_versions(demo, "text-to-video")
    return download(demo, version)


def plans(folder: Path, *arguments: str) -> dict[str, dict[str, object]]:
    return {stage["stage"]: stage for stage in json.loads(ran(folder, "plan", "--json", *arguments))}


def test_a_new_project_is_encoded_described_and_exported_by_the_parts_of_the_model(folder: Path, base: Path) -> None:
    ran(folder, "run", "--source", "films", *NEW)
    project = Project(folder / "runs", "new")
    found = model_folder("train_dit", project)
    assert found is not None
    for part in ("video-vae", "text-encoder"):
        assert digest_folder(found / part) == digest_folder(base / part)
    assert load_json(found, "dit")["base"] == {"weights": digest_folder(base), "lora_rank": 2}
    assert (project.record("train_vae"), project.record("train_captioner")) == (None, None)
    rows = clips(project).read(["caption", "latents_by", "text_embeds_by"], "keep = true")
    assert all(row["caption"] and row["latents_by"] and row["text_embeds_by"] for row in rows)
    assert [len(list_versions(project, kind)) for kind in ("captioner", "video-vae", "text-to-video")] == [0, 0, 1]  # type: ignore[arg-type]
    assert {stage["action"] for stage in plans(folder, *NEW).values()} == {"skip"}
    ran(folder, "generate", "a red square moving left", "-o", "further.mp4", "--project", "new", "--model", "1")
    told = ran(folder, "lineage", "1", "--project", "new")
    assert "stands on text-to-video models:/demo-text-to-video/1:" in told


def test_without_the_model_the_new_project_would_be_encoded_anew(folder: Path) -> None:
    plain = plans(folder, "--project", "new")
    assert [name for name, stage in plain.items() if stage["action"] == "run"][:2] == ["train_captioner", "caption"]
    assert plain["train_vae"]["action"] == "run"


def test_a_model_of_its_own_grown_project_keeps_its_vae_and_what_that_encoded(folder: Path, base: Path) -> None:
    project, grown = Project(folder / "runs", "demo"), ("--set", "world.num_films=18", *FURTHER)
    before = {row["clip_id"]: row["latents_by"] for row in clips(project).read(["clip_id", "latents_by"], "keep = true")}
    vae = weights_of("train_vae", project)
    ran(folder, "run", *grown)
    after = {row["clip_id"]: row["latents_by"] for row in clips(project).read(["clip_id", "latents_by"], "keep = true")}
    assert len(after) > 1.25 * len(before)
    assert set(after.values()) == set(before.values())
    assert weights_of("train_vae", project) == vae == digest_folder(base / "video-vae")
    found = model_folder("train_dit", project)
    assert found is not None
    assert digest_folder(found / "text-encoder") == digest_folder(base / "text-encoder")
    assert [version.weights for version in list_versions(project, "video-vae")] == [vae]
    ran(folder, "generate", "a red square moving left", "-o", "grown.mp4", "--model", str(found))


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("models:/nobody-text-to-video/1", "there is no `nobody-text-to-video` yet"),
        ("models:/demo-video-vae/1", "`models:/demo-video-vae/1` is no text-to-video model, so `dit.finetune` cannot go on from it"),
    ],
)
def test_what_cannot_be_trained_further_is_refused_before_the_first_stage(folder: Path, named: str, sentence: str) -> None:
    done = kinora(folder, "run", "--project", "other", "--source", "films", "--set", f"dit.finetune={named}", "--profile", "test")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs" / "other").exists()
