"""One whole run on profile `test`, through real Prefect, Ray Train, Lance and MLflow, and what a second run does."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from components.config import load_config
from components.media.read import decode_clip
from components.operations.history import read_history
from components.registry.models import list_versions
from components.stages import STAGES, TRAIN_STAGES
from components.store.project import Project
from components.store.tables import clips, samples, videos
from flows.footage_to_model import STAGE_FLOWS, footage_to_model
from tests.flows.command import REPOSITORY, kinora


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `kinora run --profile test` ran once."""
    folder = tmp_path_factory.mktemp("whole")
    done = kinora(folder, "run", "--profile", "test", PREFECT_HOME=str(folder / "runs" / "prefect"))
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    (folder / "first.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def project(folder: Path) -> Project:
    return Project(folder / "runs", "demo")


def test_every_stage_leaves_a_record(project: Project) -> None:
    assert [stage for stage in STAGES if project.record(stage) is None] == []


def test_every_stage_says_what_it_spent_and_what_its_own_work_was(project: Project) -> None:
    spent = {stage: (project.record(stage) or {})["spent"] for stage in STAGES}
    seconds = {stage: (project.record(stage) or {})["seconds"] for stage in STAGES}
    assert all(0 < one["work_seconds"] <= seconds[stage] for stage, one in spent.items()), spent
    assert all(one["core_seconds"] > 0 and not one["reserved"] and one["attempts"] == 1 for one in spent.values())
    steps = {stage: (spent[stage]["useful_steps"], spent[stage]["repeated_steps"]) for stage in TRAIN_STAGES}
    assert steps == dict.fromkeys(TRAIN_STAGES, (10, 0))
    assert [line["worked"] for stage in STAGES for line in read_history(project, stage)] == [one["worked"] for one in spent.values()]
    summary = json.loads((project.folder / "summary.json").read_text())
    assert {f"core_seconds_{stage}" for stage in STAGES} <= set(summary)
    assert "Time and cost" in (project.folder / "report.html").read_text()


def test_the_run_is_known_to_be_over(folder: Path, project: Project) -> None:
    done = kinora(folder, "status", "--profile", "test", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["run"]["state"], found["run"]["flow"], found["in_progress"]) == ("done", "footage_to_model", False)
    assert {stage["state"] for stage in found["stages"]} == {"done"}


def test_every_film_ends_as_a_row_and_every_kept_clip_has_caption_latents_and_text(project: Project) -> None:
    world = load_config("test", file=str(REPOSITORY / "pipelines.yaml")).world
    assert videos(project).count() == world.num_films + world.unseen_films
    assert videos(project).count("status = 'accepted'") == videos(project).count()
    kept = clips(project).read(["caption", "latents_by", "text_embeds_by", "split"], "keep = true")
    assert kept
    assert all(row["caption"] and row["latents_by"] and row["text_embeds_by"] for row in kept)
    assert {row["split"] for row in kept} == {"train", "val", "test"}


def test_unseen_triples_never_reach_training(project: Project) -> None:
    rows = clips(project).read(["truth", "split"])
    assert any(json.loads(row["truth"])["unseen"] for row in rows if row["truth"])
    assert {row["split"] for row in rows if row["truth"] and json.loads(row["truth"])["unseen"]} == {"test"}


def test_samples_decode_to_the_size_they_declare(project: Project) -> None:
    table = samples(project)
    rows = {row["sample_id"]: row for row in table.read(["sample_id", "num_frames", "height", "width"])}
    assert rows
    for key, blob in table.read_blobs("video", sorted(rows)[:4]):
        row = rows[key]
        assert decode_clip(blob).shape == (row["num_frames"], row["height"], row["width"], 3)


def test_the_registry_has_a_version_of_each_model_and_a_verdict(project: Project) -> None:
    settings = load_config("test", file=str(REPOSITORY / "pipelines.yaml")).generate.model_dump(mode="json")
    for kind in ("captioner", "video-vae", "text-to-video"):
        (version,) = list_versions(project, kind)
        assert version.generate == (settings if kind == "text-to-video" else {})


def test_an_untrained_model_is_registered_but_not_promoted(project: Project) -> None:
    version = list_versions(project, "text-to-video")[0]
    assert "champion" not in version.aliases


def test_the_report_stands_alone(project: Project) -> None:
    page = (project.folder / "report.html").read_text()
    assert "<video" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_summary_states_value_bar_and_whether_it_holds(project: Project) -> None:
    figures = json.loads((project.folder / "summary.json").read_text())
    assert figures
    assert all({"value", "bar", "holds"} <= set(entry) for entry in figures.values())


def test_a_second_run_does_nothing_and_says_so(folder: Path, project: Project) -> None:
    before = {stage: project.record(stage) for stage in STAGES}
    versions = (clips(project).version, videos(project).version, samples(project).version)
    done = kinora(folder, "run", "--profile", "test")
    assert done.returncode == 0, done.stderr
    assert "nothing" in (done.stdout + done.stderr).lower()
    assert {stage: project.record(stage) for stage in STAGES} == before
    assert (clips(project).version, videos(project).version, samples(project).version) == versions


def test_prefect_keeps_every_flow_and_what_it_showed(folder: Path) -> None:
    """Read off the database of the embedded server, which `prefect server start` shows."""
    with closing(sqlite3.connect(f"file:{folder / 'runs' / 'prefect' / 'prefect.db'}?mode=ro", uri=True)) as database:
        runs = database.execute("select f.name, r.state_type from flow_run r join flow f on f.id = r.flow_id").fetchall()
        artifacts = set(database.execute("select key, type from artifact where length(data) > 2").fetchall())
    assert sorted(runs) == sorted((flow.name, "COMPLETED") for flow in (footage_to_model, *STAGE_FLOWS))
    assert {
        ("curate-funnel", "table"),
        ("curate-clips", "image"),
        ("caption-captions", "table"),
        ("train-vae-reconstructions", "image"),
        ("evaluate-samples", "image"),
        ("promote-verdicts", "table"),
        ("spent", "table"),
    } <= artifacts
    assert {(f"{stage.replace('_', '-')}-progress", "progress") for stage in STAGES} <= artifacts


def test_mlflow_keeps_metrics_by_step_pictures_and_sample_videos(project: Project) -> None:
    with closing(sqlite3.connect(f"file:{project.root / 'mlflow.db'}?mode=ro", uri=True)) as database:
        query = "select r.name, count(distinct m.step) from metrics m join runs r on r.run_uuid = m.run_uuid where m.key like '%loss'"
        steps = dict(database.execute(f"{query} and m.key not like 'val%' group by r.name").fetchall())
        held_out = {step for (step,) in database.execute("select step from metrics where key = 'val_loss_t50'")}
    assert {name.rpartition("-")[0]: count for name, count in steps.items()} == {"train_captioner": 5, "train_vae": 5, "train_dit": 5}
    assert held_out == {5, 10}
    kept = {path.relative_to(project.artifacts / project.name).as_posix().split("/", 2)[2] for path in project.artifacts.rglob("*.*")}
    assert {"samples/train_vae.png", "samples/step_000010.png", "samples/step_000010.mp4"} <= kept  # of the VAE, at its end
    assert "evaluation/samples.png" in kept
    videos = {f"evaluation/{path.name}" for path in project.samples.glob("*.mp4")}
    assert len(videos) == 8
    assert videos <= kept


def test_generate_writes_a_video_that_remembers_its_prompt(folder: Path, project: Project) -> None:
    import av

    newest = sorted((project.folder / "models" / "train_dit").iterdir())[0]
    done = kinora(
        folder, "generate", "a crimson box going to the left", "-o", "red.mp4", "--seed", "7", "--model", str(newest), "--profile", "test"
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(folder / "red.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert "crimson box" in json.dumps(dict(video.metadata))


def test_the_home_is_left_untouched(folder: Path) -> None:
    import os

    assert sorted(path.name for path in Path(os.environ["HOME"]).iterdir() if path.name not in (".cache",)) in ([], ["prefect"])
