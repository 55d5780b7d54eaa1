"""What a run says of itself, and that a run which was killed is told from one that works."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.operations import alive, running
from components.store.project import Project
from components.store.servers import Server

WORKS = """
import sys, time
from pathlib import Path
from components.operations.running import Heartbeat, announced_run, stage_file
from components.store.project import Project
project = Project(Path(sys.argv[1]), "films")
with announced_run(project, "train_dit", ["train_dit"]):
    beat = Heartbeat(stage_file(project, "train_dit"), {"key": "k"}, dict)
    beat.say(done=40, total=100, note="loss 0.5")
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "films")


def test_a_run_that_works_is_running_and_one_that_was_killed_is_killed(project: Project, repository: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKS, str(project.root)], cwd=repository, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
        until = time.monotonic() + 30
        while running.read(running.stage_file(project, "train_dit")).get("done") != 40:
            assert time.monotonic() < until, "the heartbeat never came"
            time.sleep(0.05)
        assert running.read(running.run_file(project))["state"] == "running"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        said = running.read(running.stage_file(project, "train_dit"))
        assert (said["state"], said["done"], said["note"], said["pid"]) == ("killed", 40, "loss 0.5", worker.pid)
        assert running.read(running.run_file(project))["state"] == "killed"
    finally:
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()


def test_a_number_that_another_process_has_now_is_not_the_process_that_was_meant() -> None:
    assert alive.lives(alive.here()) is True
    assert alive.lives({**alive.here(), "started": 1.0}) is False
    assert alive.lives({"pid": "nonsense"}) is False
    named = alive.here()
    for seconds, same in ((2.0, True), (60.0, False)):  # a clock that was set moves the start of a process a little
        moved = named["started"] - seconds
        assert alive.lives({**named, "started": moved}) is same
        assert Server("ray", named["pid"], moved, "", "").lives is same
    assert alive.lives({**alive.here(), "host": "elsewhere"}) is None


def test_a_run_of_another_machine_is_judged_by_its_last_word(project: Project) -> None:
    path = running.run_file(project)
    path.parent.mkdir(parents=True)
    for silent, state in ((5.0, "running"), (600.0, "killed")):
        said = {**alive.here(), "host": "elsewhere", "state": "running", "beat_at": time.time() - silent}
        path.write_text(json.dumps(said))
        assert running.read(path)["state"] == state


def test_the_outermost_flow_says_how_the_run_ended(project: Project) -> None:
    def flow() -> None:
        with running.announced_run(project, "whole", ["ingest"], flow_run="f1"):
            with running.announced_run(project, "part", []):
                pass
            assert running.read(running.run_file(project))["flow"] == "whole"
            raise ValueError("no clip is left")

    with pytest.raises(ValueError, match="no clip"):
        flow()
    said = running.read(running.run_file(project))
    assert (said["state"], said["error"], said["flow_run"]) == ("failed", "no clip is left", "f1")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"pid": 1}'])
def test_a_torn_file_says_nothing(project: Project, content: str) -> None:
    path = running.run_file(project)
    assert running.read(path) == {}
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert running.read(path) == {}


def test_an_error_is_one_line() -> None:
    assert running.sentence(ValueError("two\n lines")) == "two lines"
    assert running.sentence(KeyError()) == "KeyError"
    assert running.sentence(KeyboardInterrupt()) == "interrupted"
