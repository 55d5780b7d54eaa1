"""Stopping a server ends all that it started, and never a stranger who got its number."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.operations.ports import MARK
from components.operations.processes import members, stop
from components.store.servers import Server, process_started

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


class Started:
    """A process in a session of its own, as `kinora up` starts them, and the record of it."""

    def __init__(self, code: str, root: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, env={MARK: str(root)})
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"
        started = process_started(self.process.pid)
        assert started is not None
        self.server = Server("mlflow", self.process.pid, started, "http://127.0.0.1:1", "log")


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Started]:
    found = Started(request.param, tmp_path)
    children = psutil.Process(found.process.pid).children(recursive=True)
    yield found
    for process in (*children, found.process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    found.process.wait()


@pytest.mark.parametrize("started", [PARENT], indirect=True)
def test_what_a_server_started_ends_with_it(started: Started, tmp_path: Path) -> None:
    child = psutil.Process(started.process.pid).children()[0]
    stop([started.server], tmp_path)
    assert started.process.wait(timeout=10) is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert members(started.server, tmp_path) == []


@pytest.mark.parametrize("started", [PARENT], indirect=True)
def test_what_a_killed_server_left_behind_ends_too(started: Started, tmp_path: Path) -> None:
    child = psutil.Process(started.process.pid).children()[0]
    started.process.kill()
    started.process.wait()
    assert [process.pid for process in members(started.server, tmp_path)] == [child.pid]
    stop([started.server], tmp_path)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("started", [PARENT], indirect=True)
def test_a_stranger_with_a_recycled_number_is_left_alone(started: Started, tmp_path: Path) -> None:
    before = Server("mlflow", started.process.pid, started.server.started - 3600, "http://127.0.0.1:1", "log")
    assert members(before, tmp_path) == []
    stop([before], tmp_path)
    assert started.process.poll() is None


@pytest.mark.parametrize("started", [STUBBORN], indirect=True)
def test_who_does_not_end_when_asked_is_killed(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.operations.processes.END_SECONDS", 0.5)
    stop([started.server], tmp_path)
    assert started.process.wait(timeout=10) == -9


@pytest.mark.parametrize("started", [f"import sys; sys.argv; {SLEEP}"], indirect=True)
def test_rays_leftovers_are_found_by_the_name_of_their_folder(started: Started, tmp_path: Path) -> None:
    folder = tmp_path / "kin-abc"
    left = subprocess.Popen([sys.executable, "-c", SLEEP, f"--temp-dir={folder}"], stdout=subprocess.PIPE)
    try:
        gone = Server("ray", started.process.pid, 1.0, "127.0.0.1:1", "log", folder=str(folder))
        assert [process.pid for process in members(gone, tmp_path)] == [left.pid]
    finally:
        left.kill()
        left.wait()
