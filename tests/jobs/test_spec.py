"""What a job is told and what it answers: nothing secret goes, nothing is lost on the way, errors keep their kind."""

import base64
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.config import load_config
from components.jobs.run import Outcome, Run, unseen
from components.jobs.spec import (
    StageError,
    heard,
    raise_told,
    read_spec,
    said_error,
    said_outcome,
    said_progress,
    spec_of,
)
from components.store.project import Project


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(load_config("test"), Project(tmp_path / "runs", "demo"), tmp_path / "footage", None, unseen)


def test_a_job_runs_what_its_flow_would_without_a_settings_file(run: Run) -> None:
    text = spec_of(run).as_json()
    for written in (text, base64.urlsafe_b64encode(text.encode()).decode()):
        there = read_spec(written).run(unseen)
        assert there.config.model_dump() == run.config.model_dump() | {"root": str(run.project.root)}
        assert (there.project, there.source, there.manifest) == (run.project, run.source, None)


def test_addresses_go_along_and_secrets_do_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-secret")
    text = spec_of(run).as_json()
    assert "http://127.0.0.1:5000" in text
    assert "a-secret" not in text
    for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://me:a-secret@127.0.0.1:5000")
        with pytest.raises(ValueError, match=rf"{name} holds a password.*; hint: "):
            spec_of(run)
        monkeypatch.delenv(name)


def test_a_job_finds_the_storage_that_its_flow_finds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000", "AWS_DEFAULT_REGION": "eu-north-1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert told.items() <= spec_of(run).environment.items()


def test_a_password_in_an_address_goes_into_no_line_of_a_log() -> None:
    told = heard(said_error(RuntimeError("nothing answers at postgresql://me:a-secret@db/runs")))
    assert told is not None
    assert told["error"]["sentence"] == "nothing answers at postgresql://me:***@db/runs"


def test_other_versions_than_the_flows_are_one_sentence(run: Run) -> None:
    told = json.loads(spec_of(run).as_json())
    told["versions"]["python"] = "2.7"
    with pytest.raises(ValueError, match=r"the cluster has python 3\.\d+ and the flow 2\.7; hint: "):
        read_spec(json.dumps(told)).run(unseen)


def test_ordinary_lines_are_told_from_those_meant_for_the_flow() -> None:
    outcome = Outcome("ingest", "run", "new", 1.5, {"summary": "a\nb", "rows": 3})
    assert heard(said_progress(3, 9, "clips")) == {"progress": [3, 9, "clips"]}
    told = heard(said_outcome(outcome))
    assert told is not None
    assert Outcome(**told["outcome"]) == outcome
    assert heard("warning: @kinora is a word") is None
    assert heard("@kinora {torn") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no clip is left; hint: look"), ValueError),
        (OSError(errno.ENOSPC, "No space left on device", "/data"), OSError),
        (RuntimeError("it broke\nin two"), StageError),
    ],
)
def test_the_flow_raises_the_jobs_error_with_its_kind_and_words(error: Exception, kind: type[Exception]) -> None:
    told = heard(said_error(error))
    assert told is not None
    with pytest.raises(kind) as raised:
        raise_told(told["error"])
    assert str(raised.value) == " ".join(str(error).split())
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


def test_a_job_that_is_asked_wrongly_answers_one_line_and_code_2(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "components.jobs", "ingest", "nowhere.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    told = heard(done.stdout.splitlines()[-1])
    assert told is not None
    assert told["error"]["kind"] == "ValueError"
    assert done.stderr == ""
