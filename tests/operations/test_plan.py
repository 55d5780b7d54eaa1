"""The plan says what a run would do and why, writes nothing, and imports nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.operations.plan import FLOW_STAGES, SourceSpec, StagePlan, free_bytes, newest_step, plan, resumes_from, short_of_disk
from components.stages import STAGES
from components.store import checkpoints
from components.store.project import Project
from tests.operations.pipeline import REPOSITORY, Pipeline, settings

WORLD = SourceSpec(None, None)


@pytest.fixture
def done(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(*range(10), label="a red ball")
    pipeline.run()
    return pipeline


def plans_of(pipeline: Pipeline) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in plan(pipeline.config, pipeline.project, WORLD)}


def running(pipeline: Pipeline) -> list[str]:
    return [name for name, stage in plans_of(pipeline).items() if stage.action == "run"]


def test_a_new_project_runs_everything_and_planning_it_leaves_no_trace(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    assert running(pipeline) == list(STAGES)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_project_runs_nothing(done: Pipeline) -> None:
    assert running(done) == []
    assert all(stage.why == "nothing changed" and stage.rows == 0 for stage in plans_of(done).values())


def test_what_stands_on_a_stage_that_runs_runs_after_it(done: Pipeline) -> None:
    done.config = settings("vae.steps=11")
    plans = plans_of(done)
    assert running(done) == ["train_vae", "encode", "train_dit", "evaluate", "promote"]
    assert plans["encode"].why == "after `train_vae`"
    assert plans["train_captioner"].action == "skip"


def test_new_clips_do_not_promise_a_retrain_of_the_models_that_serve(done: Pipeline) -> None:
    done.add_clips(50)
    plans = plans_of(done)
    assert running(done) == ["curate", "caption", "encode", "train_dit", "evaluate", "promote"]
    assert plans["curate"].rows == 1
    assert plans["train_vae"].why == "the model serves, unless `curate` brings enough rows for a retrain"


def test_other_clip_settings_retrain_every_model(done: Pipeline) -> None:
    done.config = settings("clip.crf=20")
    assert running(done) == list(STAGES)


def test_the_time_is_that_of_the_last_run_and_of_the_share_that_is_left(done: Pipeline) -> None:
    done.add_clips(50)
    plans = plans_of(done)
    assert plans["train_dit"].seconds_expected == pytest.approx(10.0)
    assert plans["curate"].seconds_expected == pytest.approx(1.0)  # one row, and ten took ten seconds
    assert plans["curate"].bytes_expected == 100
    assert (plans["train_dit"].bytes_expected, plans["ingest"].seconds_expected) == (1000, None)  # skipped


def test_a_training_that_resumes_takes_the_steps_that_are_left(done: Pipeline) -> None:
    done.config = settings("vae.learning_rate=0.1")  # ten steps took ten seconds
    folder = done.project.checkpoints("train_vae", done.assess("train_vae").key) / "step_000007"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert plans_of(done)["train_vae"].seconds_expected == pytest.approx(3.0)


def test_a_training_after_new_rows_is_another_one_and_resumes_from_nothing(done: Pipeline) -> None:
    folder = done.project.checkpoints("train_dit", done.assess("train_dit").key) / "step_000010"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    done.config = settings("vae.steps=11")
    after = plans_of(done)["train_dit"]
    assert (after.why, after.resumes_from, after.seconds_expected) == ("after `encode`", None, pytest.approx(10.0))


def test_a_run_that_will_not_fit_on_the_disk_is_warned_of_with_the_stage_where_it_ends(done: Pipeline) -> None:
    done.config = settings("dit.steps=11")
    assert short_of_disk(list(plans_of(done).values()), done.project) is None
    free = free_bytes(done.project.folder)
    plans = [StagePlan(stage, "run", "", 1, 1.0, free * 2 // 5, None) for stage in ("encode", "train_dit", "evaluate")]
    sentence = short_of_disk(plans, done.project) or ""
    assert "so the disk will be full in `evaluate`; hint: free some space" in sentence
    assert short_of_disk(plans[:2], done.project) is None
    assert free_bytes(done.project.folder / "not" / "there" / "yet") == pytest.approx(free, rel=0.2)


def test_a_training_that_was_killed_resumes_from_its_newest_finished_checkpoint(done: Pipeline) -> None:
    done.config = settings("vae.steps=11")
    folder = done.project.checkpoints("train_vae", done.assess("train_vae").key)
    for step in (5, 10, 15):
        (folder / f"step_{step:06d}").mkdir(parents=True)
        if step != 15:  # the last one was cut before its manifest
            (folder / f"step_{step:06d}" / "manifest.json").write_text("{}")
    assert plans_of(done)["train_vae"].resumes_from == "step_000010"
    assert newest_step(done.project.folder / "nothing") is None


def test_a_training_resumes_from_the_storage_where_that_has_a_newer_checkpoint(tmp_path: Path) -> None:
    project = Project(tmp_path / "runs", "films", f"file://{tmp_path}/storage")
    there = checkpoints.storage_of(project, project.checkpoints("train_vae", "k"))
    (tmp_path / "manifest.json").write_text("{}")
    assert resumes_from(project, "train_vae", "k") is None
    for step in (7, 12):
        there.upload(tmp_path / "manifest.json", f"step_{step:06d}/manifest.json")
    there.upload(tmp_path / "manifest.json", "step_000020/vae.json")  # its upload was cut before the manifest
    assert resumes_from(project, "train_vae", "k") == "step_000012"
    here = project.checkpoints("train_vae", "k") / "step_000015"
    here.mkdir(parents=True)
    (here / "manifest.json").write_text("{}")
    assert resumes_from(project, "train_vae", "k") == "step_000015"
    assert resumes_from(Project(tmp_path / "elsewhere", "films"), "train_vae", "k") is None


def test_a_flow_plans_its_own_stages_only(done: Pipeline) -> None:
    done.config = settings("dit.steps=11")
    assert [stage.stage for stage in plan(done.config, done.project, WORLD, FLOW_STAGES["ingest"])] == ["ingest", "curate"]


def test_every_flow_is_a_file_and_can_be_planned() -> None:
    assert all((REPOSITORY / "flows" / f"{flow}.py").is_file() for flow in FLOW_STAGES)
    assert FLOW_STAGES["footage_to_model"] == tuple(STAGES)


def test_planning_a_finished_project_imports_no_torch_ray_prefect_or_mlflow(done: Pipeline) -> None:
    script = (
        "import sys; from pathlib import Path; from components.config import load_config\n"
        "from components.operations.plan import SourceSpec, plan; from components.store.project import Project\n"
        "found = plan(load_config('test'), Project(Path(sys.argv[1]), 'films'), SourceSpec(None, None))\n"
        "assert {stage.action for stage in found} == {'skip'}, found\n"
        "print(sorted({'torch', 'ray', 'prefect', 'mlflow', 'open_clip'} & set(sys.modules)))"
    )
    done_ = subprocess.run(
        [sys.executable, "-c", script, str(done.project.root)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done_.stdout.strip() == "[]"
