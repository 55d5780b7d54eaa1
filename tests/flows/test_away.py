"""Prefect's server away for a while: a stage that works goes on, and its flow ends as if nothing had been."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.store.project import Project
from tests.flows.command import kinora, start
from tests.flows.serving import ask_prefect, free_port, serving

pytestmark = pytest.mark.long

TRAINING = ("run", "train_vae", "--profile", "test", "--set", "vae.steps=60")


def until(moment: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not moment():
        assert time.monotonic() < deadline, f"it never came: {what}"
        time.sleep(0.2)


def test_a_training_outlives_a_prefect_that_is_away_until_after_its_end(tmp_path: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    server = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    project = Project(tmp_path / "runs", "demo")
    with serving(command, tmp_path, server, f"{api}/health") as before:
        done = kinora(tmp_path, "run", "ingest", "--profile", "test", PREFECT_API_URL=api)
        assert done.returncode == 0, done.stderr[-4000:]
        running = start(tmp_path, *TRAINING, PREFECT_API_URL=api)
        until(lambda: any(project.folder.glob("checkpoints/train_vae/*/step_*")), "a checkpoint")
        os.killpg(before.pid, signal.SIGKILL)
    log = tmp_path / "kinora.log"
    until(lambda: project.record("train_vae") is not None or running.poll() is not None, "the end of the training")
    assert running.poll() is None, log.read_text()[-4000:]
    with serving(command, tmp_path, server, f"{api}/health"):
        assert running.wait(240) == 0, log.read_text()[-4000:]
        states = ask_prefect(api, "/flow_runs/filter").json()
        assert {run["state"]["type"] for run in states} == {"COMPLETED"}
    assert "Traceback" not in log.read_text()
    assert 1 <= log.read_text().count("warning: Prefect is away") <= 2
