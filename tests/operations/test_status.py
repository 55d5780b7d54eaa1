"""What `kinora status` reads: a run that works, one that was killed, one that failed, one that is over; locks and servers that live."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.operations import alive, running
from components.operations.status import StageStatus, Status, read_status
from components.stages import STAGES
from components.store.project import Project, write_json
from components.store.servers import Server, record_servers


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "films")
    (project.folder / "state").mkdir(parents=True)
    return project


@pytest.fixture
def gone() -> dict[str, Any]:
    """The name of a process that lived and is no more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        import psutil

        name = {**alive.here(), "pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        process.stdin.close()
    return name


def say(project: Project, stage: str | None, process: dict[str, Any], **said: Any) -> None:
    path = running.run_file(project) if stage is None else running.stage_file(project, stage)
    write_json(path, {**process, "state": "running", "began_at": time.time(), "beat_at": time.time(), **said})


def stages(found: Status) -> dict[str, StageStatus]:
    return {stage.stage: stage for stage in found.stages}


def test_a_project_that_never_ran_is_said_to_have_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="project `films` has not run yet"):
        read_status(Project(tmp_path, "films"))


def test_a_run_in_progress_has_stages_behind_it_one_at_work_and_some_to_come(project: Project) -> None:
    now, here = time.time(), alive.here()
    say(project, None, here, flow="footage_to_model", stages=list(STAGES), began_at=now - 100)
    write_json(running.stage_file(project, "ingest"), {**here, "state": "skipped", "why": "nothing changed", "began_at": now - 90})
    say(project, "curate", here, state="done", began_at=now - 80, ended_at=now - 60)
    said = {"done": 40, "total": 100, "note": "loss 0.5", "phase_began_at": now - 20, "phase_began_with": 0}
    say(project, "train_captioner", here, began_at=now - 30, beat_at=now, **said)
    say(project, "train_vae", here, state="failed", began_at=now - 9000, error="of a run before this one")
    found = read_status(project)
    assert found.in_progress
    assert [stage.state for stage in found.stages] == ["skipped", "done", "running", *["waiting"] * 6]
    at_work = stages(found)["train_captioner"]
    assert (at_work.done, at_work.total, at_work.said) == (40, 100, "loss 0.5")
    assert at_work.seconds_left == pytest.approx(30.0, abs=3.0)  # 40 in 20 s, 60 to go
    assert stages(found)["curate"].seconds == pytest.approx(20.0)


def test_a_killed_training_says_from_where_it_resumes(project: Project, gone: dict[str, Any]) -> None:
    folder = project.checkpoints("train_vae", "k" * 64) / "step_000200"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    say(project, None, gone, flow="train_vae", stages=["train_vae"], began_at=time.time() - 10)
    say(project, "train_vae", gone, key="k" * 64, done=260, total=450)
    say(project, "caption", gone)
    found = read_status(project)
    assert (found.in_progress, found.run["state"]) == (False, "killed")
    assert (stages(found)["train_vae"].state, stages(found)["train_vae"].said) == ("killed", "resumes from step_000200")
    assert stages(found)["caption"].said == "resumes with the rows that are left"


def test_a_failed_stage_says_its_sentence_and_the_others_what_they_did_before(project: Project) -> None:
    project.write_record("ingest", {"result": {"summary": "3 files read"}, "seconds": 4.0})
    say(project, None, alive.here(), state="failed", flow="curate", stages=["curate"], error="no clip is kept", ended_at=time.time())
    say(project, "curate", alive.here(), state="failed", error="no clip is kept", ended_at=time.time())
    found = stages(read_status(project))
    assert (found["curate"].state, found["curate"].said) == ("failed", "no clip is kept")
    assert (found["ingest"].state, found["ingest"].said, found["ingest"].seconds) == ("earlier", "3 files read", 4.0)
    assert found["promote"].state == "never"


def test_a_lock_is_shown_while_it_is_held_and_looking_does_not_take_it(project: Project) -> None:
    with project.lock("train_dit"):
        assert [lock.split(":")[0] for lock in read_status(project).locks] == ["train_dit"]
        assert "process" in read_status(project).locks[0]
    assert read_status(project).locks == []


def test_servers_that_live_are_named_and_those_that_are_gone_are_not(project: Project, gone: dict[str, Any]) -> None:
    def server(name: str, process: dict[str, Any]) -> Server:
        return Server(name, process["pid"], process["started"], f"http://{name}", "log", ready=True)

    record_servers(project.root, [server("prefect", alive.here()), server("mlflow", gone)])
    assert read_status(project).servers == {"prefect": "http://prefect"}


def test_links_lead_to_prefect_and_mlflow_where_they_are_servers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_record("train_vae", {"result": {"run_id": "abc"}})
    say(project, None, alive.here(), flow="f", stages=[], flow_run="12", prefect="http://127.0.0.1:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert read_status(project).links == {
        "prefect": "http://127.0.0.1:4200/runs/flow-run/12",
        "mlflow train_vae": "http://127.0.0.1:5000/#/runs/abc",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    say(project, None, alive.here(), flow="f", stages=[], flow_run="12", prefect=None)
    assert read_status(project).links == {}
