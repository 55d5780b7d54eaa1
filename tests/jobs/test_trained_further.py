"""A registered model trained further by adapters, all stages for real: on a new project's footage, which nobody described, and on its own.

The stages run in this process, their trainings as a lone worker; `tests/flows` has them run by Prefect and Ray.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.jobs import train
from components.jobs.run import Outcome, Run, unseen
from components.jobs.stage import run_stage
from components.models.weights import digest_folder, load_json
from components.operations.freshness import model_folder, weights_of
from components.operations.lineage import model_lineage
from components.registry.models import download, list_versions
from components.stages import STAGES
from components.store.project import Project
from components.store.tables import clips
from components.train.context import TrainContext
from components.world.films import render_films
from tests.flows.command import kinora
from tests.operations.pipeline import settings

pytestmark = pytest.mark.slow

HERE = ("caption.num_actors=0", "encode.num_actors=0")
FURTHER = ("dit.finetune=models:/demo-text-to-video/1", "dit.lora_rank=2")


def fit_here(entry: str, payload: Mapping[str, Any], *, metrics_file: Path, **how: object) -> None:
    """Trains as `components.cluster.training.fit` does, without Ray."""
    module, _, name = entry.partition(":")
    metrics_file.parent.mkdir(parents=True, exist_ok=True)
    getattr(import_module(module), name)(payload, TrainContext.local(metrics_file.parent))


def ran(project: Project, source: Path | None, *overrides: str) -> dict[str, Outcome]:
    """Runs every stage in order, as `footage_to_model` does."""
    run = Run(settings(*HERE, *overrides), project, source, None, unseen)
    return {stage: run_stage(run, stage) for stage in STAGES}


def actions(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {stage: outcome.action for stage, outcome in outcomes.items()}


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "fit", fit_here)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, without_ray: None) -> Path:
    """A folder with a model of the synthetic world, and a folder `films` of others without a word about them."""
    folder = tmp_path_factory.mktemp("further")
    ran(Project(folder / "runs", "demo"), None)
    render_films(folder / "films", "demo", 8, seed=77, scenes=4, height=32, width=32, workers=1)
    for sidecar in (folder / "films").rglob("*.json"):
        sidecar.unlink()
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    first = min(list_versions(Project(folder / "runs", "demo"), "text-to-video"), key=lambda version: version.number)
    return download(Project(folder / "runs", "demo"), first)


def generated(folder: Path, name: str, *arguments: str) -> Path:
    done = kinora(folder, "generate", "a red square moving left", "-o", name, "--profile", "test", *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / name


def test_a_new_project_is_encoded_described_and_exported_by_the_parts_of_the_model(folder: Path, base: Path) -> None:
    project = Project(folder / "runs", "new")
    outcomes = ran(project, folder / "films", *FURTHER)
    assert [stage for stage, action in actions(outcomes).items() if action == "skip"] == ["train_captioner", "train_vae"]
    found = model_folder("train_dit", project)
    assert found is not None
    for part in ("video-vae", "text-encoder"):
        assert digest_folder(found / part) == digest_folder(base / part)
    assert load_json(found, "dit")["base"] == {"weights": digest_folder(base), "lora_rank": 2}
    rows = clips(project).read(["caption", "latents_by", "text_embeds_by"], "keep = true")
    assert rows
    assert all(row["caption"] and row["latents_by"] and row["text_embeds_by"] for row in rows)
    assert [len(list_versions(project, kind)) for kind in ("captioner", "video-vae", "text-to-video")] == [0, 0, 1]  # type: ignore[arg-type]
    assert set(actions(ran(project, folder / "films", *FURTHER)).values()) == {"skip"}
    assert generated(folder, "new.mp4", "--project", "new", "--model", "1").is_file()
    told = model_lineage(project, "text-to-video", "1")
    assert told["base"] == "models:/demo-text-to-video/1"
    assert digest_folder(base) in [below["weights"] for below in told["stands_on"]]


def test_a_model_of_its_own_grown_project_keeps_its_vae_and_what_that_encoded(folder: Path, base: Path) -> None:
    project = Project(folder / "runs", "demo")
    before = {row["clip_id"]: row["latents_by"] for row in clips(project).read(["clip_id", "latents_by"], "keep = true")}
    vae = weights_of("train_vae", project)
    outcomes = ran(project, None, "world.num_films=18", *FURTHER)
    after = {row["clip_id"]: row["latents_by"] for row in clips(project).read(["clip_id", "latents_by"], "keep = true")}
    assert len(after) > 1.25 * len(before)
    assert set(after.values()) == set(before.values())
    assert outcomes["train_vae"].action == "skip"
    assert outcomes["encode"].result["amount"] == f"{len(after) - len(before)} clips"
    assert weights_of("train_vae", project) == vae == digest_folder(base / "video-vae")
    found = model_folder("train_dit", project)
    assert found is not None
    assert digest_folder(found / "text-encoder") == digest_folder(base / "text-encoder") != weights_of("train_captioner", project)
    assert [version.weights for version in list_versions(project, "video-vae")] == [vae]
    assert generated(folder, "grown.mp4", "--model", str(found)).is_file()


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("models:/nobody-text-to-video/1", "there is no model `nobody-text-to-video`"),
        ("models:/demo-video-vae/1", "`models:/demo-video-vae/1` is no text-to-video model, so `dit.finetune` cannot go on from it"),
    ],
)
def test_what_cannot_be_trained_further_is_refused_before_the_first_stage(folder: Path, named: str, sentence: str) -> None:
    done = kinora(folder, "run", "--project", "other", "--source", "films", "--set", f"dit.finetune={named}", "--profile", "test")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs" / "other").exists()
