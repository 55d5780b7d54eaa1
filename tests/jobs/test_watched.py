"""A stage that is watched says how far it is, what its own work was, and what attempts that were killed took before."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.jobs.run import Run
from components.jobs.watched import Watched
from components.operations import running
from components.operations.freshness import Freshness
from components.store.project import Project
from tests.operations.pipeline import REPOSITORY, settings

FRESHNESS = Freshness("caption", False, "3 new clips", "maker", 10, "rows", "k" * 64, 3)
KILLED = """
import sys, time
from pathlib import Path
from components.jobs.watched import Watched
from tests.jobs.test_watched import FRESHNESS, run_of
with Watched(run_of(Path(sys.argv[1]), []), "caption", FRESHNESS) as watched:
    watched.run.progress(1, 3, "clips captioned")
    print("up", flush=True)
    time.sleep(600)
"""


def run_of(root: Path, told: list[tuple[int, int, str]]) -> Run:
    return Run(settings(), Project(root, "films"), None, None, lambda *line: told.append(line))


def said(root: Path) -> dict:
    return running.read(running.stage_file(Project(root, "films"), "caption"))


def a_moment() -> None:
    until = time.time() + 0.1
    while time.time() < until:
        pass


def test_work_lies_between_the_first_and_the_last_row_and_the_progress_is_passed_on(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    clock, busy = [], time.process_time()
    with Watched(run_of(tmp_path, told), "caption", FRESHNESS) as watched:
        assert said(tmp_path)["state"] == "running"
        a_moment()  # loads its weights
        for done in (0, 3):
            clock.append(time.time())
            watched.run.progress(done, 3, "clips captioned")
            clock.append(time.time())
            a_moment()  # captions, then commits
        watched.run.progress(3, 3, "clips captioned")  # says the same again, which is no work
    assert told == [(0, 3, "clips captioned"), (3, 3, "clips captioned"), (3, 3, "clips captioned")]
    spent = watched.spent(0.4, {})
    assert clock[0] <= spent["work_started_at"] <= clock[1]
    assert clock[2] - clock[1] <= spent["work_seconds"] + 0.001 <= clock[3] - clock[0] + 0.002
    assert (spent["worked"], spent["attempts"], spent["seconds_of_all_attempts"]) == (3, 1, 0.4)
    assert spent["core_seconds"] == pytest.approx(time.process_time() - busy, abs=0.15)
    assert (said(tmp_path)["state"], said(tmp_path)["done"]) == ("done", 3)


def test_a_stage_that_fails_leaves_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clip"), Watched(run_of(tmp_path, []), "caption", FRESHNESS):
        raise ValueError("no clip has\na caption")
    assert (said(tmp_path)["state"], said(tmp_path)["error"]) == ("failed", "no clip has a caption")


def test_what_a_killed_attempt_took_is_added_to_the_next_one_of_the_same_work(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "up\n"
        deadline = time.monotonic() + 30
        while said(tmp_path).get("done") != 1:
            assert time.monotonic() < deadline, "the heartbeat never came"
            time.sleep(0.05)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if killed.stdout is not None:
            killed.stdout.close()
    took = said(tmp_path)["beat_at"] - said(tmp_path)["began_at"]
    assert said(tmp_path)["state"] == "killed"
    with Watched(run_of(tmp_path, []), "caption", FRESHNESS) as again:
        pass
    assert again.spent(1.0, {})["attempts"] == 2
    assert again.spent(1.0, {})["seconds_of_all_attempts"] == pytest.approx(1.0 + took, abs=0.02)
    with Watched(run_of(tmp_path, []), "caption", FRESHNESS) as third:
        pass
    assert third.spent(1.0, {})["attempts"] == 1  # the one before came to its end


def test_other_work_starts_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Watched(run_of(tmp_path, []), "caption", FRESHNESS):
        raise KeyError("a fault")
    other = Freshness("caption", False, "", "maker", 10, "rows", "other", 3)
    with Watched(run_of(tmp_path, []), "caption", other) as watched:
        pass
    assert watched.spent(1.0, {})["attempts"] == 1


def test_steps_of_a_training_begin_when_its_worker_says_so(tmp_path: Path) -> None:
    """What an earlier call reported comes first, before any worker stands, and is no work of this one."""
    with Watched(run_of(tmp_path, []), "train_vae", FRESHNESS) as watched:
        watched.run.progress(200, 450, "loss 0.5")
        a_moment()
        began = time.time()
        a_moment()
        watched.run.progress(450, 450, "loss 0.1")
        ended = time.time()
    spent = watched.spent(1.0, {"steps": {"began_at": began, "taken": 250, "useful": 450, "repeated": 0}})
    assert 0.1 <= spent["work_seconds"] + 0.001 <= ended - began + 0.002
    assert (spent["worked"], spent["useful_steps"]) == (250, 450)
