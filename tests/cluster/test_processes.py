import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.cluster.processes import end, lives, started_below

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
"""


def started_for(name: str) -> tuple[subprocess.Popen, int]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return parent, int(parent.stdout.readline())


@pytest.fixture
def pair(tmp_path: Path):
    parent, child = started_for(str(tmp_path / "session"))
    yield parent, psutil.Process(child)
    for process in (parent, psutil.Process(child) if psutil.pid_exists(child) else parent):
        process.kill()
    parent.wait()


def test_what_a_ray_started_is_found_by_its_folder(tmp_path: Path, pair):
    parent, child = pair
    assert {process.pid for process in started_below(tmp_path / "session")} == {parent.pid, child.pid}
    assert started_below(tmp_path / "another") == []


def test_what_outlives_its_parent_is_ended_too(tmp_path: Path, pair):
    parent, child = pair
    started = started_below(tmp_path / "session")
    parent.communicate("\n")
    assert lives(child)
    end(started, 0.2)
    assert not lives(child)


def test_what_ends_by_itself_is_left_to_it(tmp_path: Path):
    late = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)", str(tmp_path / "session")])
    end(started_below(tmp_path / "session"), 30)
    assert late.wait() == 0


def test_remains_do_not_live():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 30
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    assert not lives(psutil.Process(ended.pid))
    ended.wait()
