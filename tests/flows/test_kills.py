"""SIGKILL of a whole run at several moments, then the same command: nothing doubled, nothing lost, the same weights."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.models.weights import digest_folder
from components.operations.freshness import model_folder
from components.store.project import Project
from components.store.tables import clips, videos
from tests.flows.command import kinora, start

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


def kill_when(folder: Path, project: Project, moment: Callable[[Project], bool]) -> None:
    running = start(folder, *ARGUMENTS)
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
    for moment in (some_clips, checkpoint_of("train_captioner"), checkpoint_of("train_vae"), checkpoint_of("train_dit")):
        kill_when(tmp_path, project, moment)
    done = kinora(tmp_path, *ARGUMENTS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert content(project) == content(unbroken)
    assert weights(project) == weights(unbroken)
