"""The lease of a stage: one holder among machines that share a storage, and the next one when it is gone."""

import json
import threading
from pathlib import Path

import pytest

from components.store import lease
from components.store.lease import leased
from components.store.project import Project, StageBusyError

HERE, THERE = {"pid": 1, "host": "a"}, {"pid": 2, "host": "b"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    return Project(tmp_path / "machine", "films", f"file://{tmp_path}/storage")


def unknown(holder: object) -> None:
    """A holder on another machine cannot be seen from here."""


def left_behind(project: Project) -> None:
    """What a holder leaves that was killed: its row."""
    row = {"stage": "train_vae", "name": "killed", "holder": json.dumps(HERE), "beat": 7}
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


def test_of_many_who_take_a_dead_holders_lease_at_once_one_has_it_at_a_time(project: Project) -> None:
    left_behind(project)
    inside, most, guard = 0, 0, threading.Lock()

    def work(number: int) -> None:
        nonlocal inside, most
        done = False
        while not done:
            try:
                with leased(project, "train_vae", {"pid": number}, lambda holder: holder != HERE):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
                    done = True
            except StageBusyError:
                continue

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2, 6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert most == 1
    assert lease._table(project).count() == 0


def test_without_a_storage_there_is_no_lease(tmp_path: Path) -> None:
    project = Project(tmp_path, "films")
    with leased(project, "train_vae", HERE, unknown):
        assert not project.folder.exists()
