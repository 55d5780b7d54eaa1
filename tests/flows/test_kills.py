"""SIGKILL of a whole run at several moments, then the same command: nothing doubled, nothing lost, the same weights."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from components.models.weights import digest_folder
from components.operations.freshness import model_folder
from components.stages import STAGES
from components.store.project import Project
from components.store.storage import Storage
from components.store.tables import clips, videos
from components.train.context import read_metrics, read_starts
from tests.flows.command import kinora, start
from tests.store.object_store import found_by_this_process, object_store

pytestmark = pytest.mark.slow

ARGUMENTS = ("run", "--profile", "test", "--set", "dit.steps=40", "--set", "vae.steps=20", "--set", "captioner.steps=20")


def weights(project: Project) -> dict[str, str]:
    folders = {stage: model_folder(stage, project) for stage in ("train_captioner", "train_vae", "train_dit")}
    return {stage: digest_folder(folder) for stage, folder in folders.items() if folder is not None}


def content(project: Project) -> dict[str, str]:
    table = clips(project)
    return {
        "clips": table.digest(["caption", "caption_by", "split", "keep", "latents_by", "text_embeds_by"]),
        "videos": videos(project).digest(["status", "num_clips"]),
    }


def checkpoint_of(stage: str) -> Callable[[Project], bool]:
    return lambda project: any((project.folder / "checkpoints" / stage).glob("*/step_*"))


def some_clips(project: Project) -> bool:
    return (project.folder / "tables" / "clips.lance" / "_versions").is_dir() and clips(project).count() > 0


def metrics_of(project: Project, stage: str = "train_dit") -> Path:
    """The metrics file of the one training of a stage."""
    (path,) = project.folder.glob(f"checkpoints/{stage}/*/metrics.jsonl")
    return path


def kill_when(
    folder: Path, project: Project, moment: Callable[[Project], bool], arguments: Sequence[str] = ARGUMENTS, **extra: str
) -> None:
    running = start(folder, *arguments, **extra)
    try:
        deadline = time.monotonic() + 600
        while not moment(project):
            assert running.poll() is None, (folder / "kinora.log").read_text()[-4000:]
            assert time.monotonic() < deadline, "the moment of the kill never came"
            time.sleep(0.1)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("unbroken")
    done = kinora(folder, *ARGUMENTS)
    assert done.returncode == 0, done.stderr[-4000:]
    return Project(folder / "runs", "demo")


def test_a_run_killed_in_every_stage_ends_as_an_unbroken_one(unbroken: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "runs", "demo")
    stages = ("train_captioner", "train_vae", "train_dit")
    for moment in (some_clips, *map(checkpoint_of, stages)):
        kill_when(tmp_path, project, moment)
    done = kinora(tmp_path, *ARGUMENTS)
    assert done.returncode == 0, done.stderr[-4000:]
    for stage in stages:  # each went on from where it was killed
        assert read_starts(metrics_of(project, stage))[-1].step > 0, stage
    assert content(project) == content(unbroken)
    assert weights(project) == weights(unbroken)


@pytest.mark.long
def test_a_run_killed_in_a_training_ends_on_another_machine_as_an_unbroken_one(unbroken: Project, tmp_path: Path) -> None:
    """Tables, models, records and checkpoints lie in an object store; each machine begins with an empty folder."""
    machines = [tmp_path / name for name in "abc"]
    for machine in machines:
        machine.mkdir()
    with object_store() as store, found_by_this_process(store):
        arguments = (*ARGUMENTS, "--set", f"cluster.storage={store.uri('runs')}")
        shared = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        first, second, _ = projects = [Project(machine / "runs", "demo", store.uri("runs")) for machine in machines]
        stored = Storage(f"{store.uri('runs')}/demo")

        def checkpoint_arrived(project: Project) -> bool:
            return any(name.endswith("manifest.json") for name in stored.list("checkpoints/train_dit"))

        kill_when(machines[0], first, checkpoint_arrived, arguments, **shared)
        done = kinora(machines[1], *arguments, **shared)
        assert done.returncode == 0, done.stderr[-4000:]
        assert not any((machine / "runs/demo/tables").exists() for machine in machines)
        planned = kinora(machines[2], "plan", "--json", *arguments[1:], **shared)
        assert [stage["action"] for stage in json.loads(planned.stdout)] == ["skip"] * len(STAGES), planned.stdout + planned.stderr
        made = kinora(machines[2], "generate", "a red square", "-o", "x.mp4", "--model", "candidate", *arguments[1:], **shared)
        assert made.returncode == 0, made.stderr[-4000:]
        assert [content(project) for project in projects[1:]] == [content(unbroken)] * 2
        assert [weights(project) for project in projects[1:]] == [weights(unbroken)] * 2
        first_steps = [start.step for start in read_starts(metrics_of(second))]
        assert first_steps[0] == 0
        assert len(first_steps) == 2
        assert first_steps[1] > 0  # gone on from what the first machine had uploaded
        assert len(read_metrics(metrics_of(second))) == len(read_metrics(metrics_of(unbroken)))


def test_a_run_that_is_asked_to_end_says_one_sentence(tmp_path: Path) -> None:
    project = Project(tmp_path / "runs", "demo")
    done = kinora(tmp_path, "run", "ingest", "--profile", "test")
    assert done.returncode == 0, done.stderr[-4000:]
    running = start(tmp_path, "run", "train_vae", "--profile", "test", "--set", "vae.steps=600")
    deadline = time.monotonic() + 300
    while not checkpoint_of("train_vae")(project):
        assert running.poll() is None, (tmp_path / "kinora.log").read_text()[-4000:]
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(60) == 143
    said = (tmp_path / "kinora.log").read_text()
    assert said.splitlines()[-1] == "terminated; the same command resumes where it was"
    assert "Traceback" not in said
    assert "SIGTERM" not in said  # Ray's own handler prints a stack
    again = start(tmp_path, "run", "train_vae", "--profile", "test", "--set", "vae.steps=600", PREFECT_HOME=str(tmp_path / "prefect"))
    while json.loads((project.folder / "running" / "train_vae.json").read_text())["pid"] != again.pid:
        assert again.poll() is None, (tmp_path / "kinora.log").read_text()[-4000:]
        time.sleep(0.1)
    time.sleep(3.0)
    os.killpg(again.pid, signal.SIGINT)  # Ctrl-C in a terminal, which all processes of the group hear
    assert again.wait(60) == 130
    said = (tmp_path / "kinora.log").read_text()
    assert said.splitlines()[-1] == "interrupted; the same command resumes where it was"
    assert "Traceback" not in said
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as records:
        assert records.execute("select state_name from flow_run").fetchall() == [("Crashed",)]  # and does not seem to run for ever
