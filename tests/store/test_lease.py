"""The lease of a stage: one holder among machines that share a storage, and the next one when it is gone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from components.store import lease
from components.store.lease import FORGET, leased, refuse_others
from components.store.project import Project, StageBusyError
from tests.store.object_store import REPOSITORY

HERE, THERE = {"pid": 1, "host": "a"}, {"pid": 2, "host": "b"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    return Project(tmp_path / "machine", "films", f"file://{tmp_path}/storage")


def unknown(holder: object) -> None:
    """A holder on another machine cannot be seen from here."""


def left_behind(project: Project, stage: str = "train_vae") -> None:
    """What a holder leaves that was killed: its row."""
    row = {"stage": stage, "name": "killed", "holder": json.dumps(HERE), "beat": 7}
    assert lease._table(project).append([row]) == 1


def test_a_second_machine_is_told_who_works(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    with leased(project, "train_vae", HERE, unknown):
        with pytest.raises(StageBusyError, match=r"process 1 of `a`\); hint: wait"), leased(project, "train_vae", THERE, unknown):
            pass
        with leased(project, "train_dit", THERE, unknown):
            pass
    with leased(project, "train_vae", THERE, unknown):
        pass


def test_a_lease_whose_holder_stands_still_is_taken(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "GONE_SECONDS", 0.2)
    left_behind(project)
    with leased(project, "train_vae", THERE, unknown):
        assert [json.loads(row["holder"]) for row in lease._table(project).read(["holder"])] == [THERE]
    assert lease._table(project).count() == 0


def test_a_lease_of_a_process_that_is_known_to_be_dead_is_taken_at_once(project: Project) -> None:
    left_behind(project)
    with leased(project, "train_vae", THERE, lambda holder: False):
        pass


TAKES = """
import os, sys, time
from pathlib import Path
from components.operations.alive import here, lives
from components.store import lease
from components.store.project import Project, StageBusyError
lease.LOOK_SECONDS = 0.02
root, storage, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
project, inside = Project(root / str(os.getpid()), "films", storage), root / "inside"
print("ready", flush=True)
sys.stdin.readline()
while rounds:
    try:
        with lease.leased(project, "train_vae", here(), lambda holder: holder["pid"] != 1 and lives(holder)):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another one is inside
            lease._table(project).count()  # as long as it takes others to look
            inside.unlink()
        rounds -= 1
    except StageBusyError:
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_of_many_processes_that_take_a_dead_holders_lease_at_once_one_has_it_at_a_time(project: Project, tmp_path: Path) -> None:
    left_behind(project)
    command = [sys.executable, "-c", TAKES, str(tmp_path), str(project.storage), "2"]
    workers = [subprocess.Popen(command, cwd=REPOSITORY, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        assert [(worker.communicate(timeout=120)[1], worker.returncode) for worker in workers] == [("", 0)] * 3
    finally:
        for worker in workers:
            worker.kill()
    assert not (tmp_path / "inside").exists()
    assert lease._table(project).count() == 0


@pytest.mark.parametrize("meanwhile", ["another one takes it", "its holder wakes up"])
def test_a_lease_is_not_taken_by_what_was_read_a_moment_ago(project: Project, meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "GONE_SECONDS", -1.0)
    left_behind(project)
    looks = 0

    def look(holder: Mapping[str, Any]) -> bool | None:
        nonlocal looks
        looks += 1
        if looks > 1:
            return True
        table = lease._table(project)
        if meanwhile == "its holder wakes up":
            table.change({"beat": "beat + 1"}, "name = 'killed'")
            return None
        table.delete("name = 'killed'")
        table.append([{"stage": "train_vae", "name": "next", "holder": json.dumps(HERE), "beat": 7}])
        return False

    with pytest.raises(StageBusyError, match=r"process 1 of `a`"), leased(project, "train_vae", THERE, look):
        pass
    assert lease._table(project).count() == 1


def test_a_lease_that_cannot_be_given_back_is_no_error_of_the_work(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    def work(error: Exception | None) -> str:
        with leased(project, "train_vae", HERE, unknown):
            shutil.rmtree(project.table("leases").removeprefix("file://"))
            if error is not None:
                raise error
        return "done"

    assert work(None) == "done"
    with pytest.raises(KeyError, match="of the work"):
        work(KeyError("of the work"))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_stage_does_not_begin_while_a_take_down_holds_its_lease_and_gives_its_own_back(project: Project) -> None:
    with leased(project, FORGET, HERE, lambda holder: True):
        refuse_others(project, unknown)
        with (
            pytest.raises(StageBusyError, match=r"is being taken down \(process 1 of `a`\)"),
            leased(project, "encode:1", THERE, lambda holder: True),
        ):
            pass
        assert lease._table(project).keys() == [FORGET]
    busy = r"`encode` of project `films` is running \(process 2 of `b`\)"
    with leased(project, "encode:1", THERE, unknown), leased(project, FORGET, HERE, unknown), pytest.raises(StageBusyError, match=busy):
        refuse_others(project, lambda holder: True)


def test_a_stage_that_waits_for_a_dead_take_down_keeps_its_own_lease(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "GONE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    left_behind(project, FORGET)
    with leased(project, "train_vae", THERE, unknown):
        (row,) = lease._table(project).read(["stage", "beat"])
        assert (row["stage"], row["beat"] > 0) == ("train_vae", True), "nobody takes it for dead meanwhile"


def test_without_a_storage_there_is_no_lease(tmp_path: Path) -> None:
    project = Project(tmp_path, "films")
    with leased(project, "train_vae", HERE, unknown):
        assert not project.folder.exists()
