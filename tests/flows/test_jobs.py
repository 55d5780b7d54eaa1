"""What a job's shell is told, and what becomes of a job that ended."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.cluster.following import Ended, Job
from components.cluster.jobs_api import shell_command
from components.jobs.run import unseen
from components.jobs.spec import JobSpec, StageError
from flows import jobs

SPEC = JobSpec("it's", "/root", None, None, {}, {}, {})


@pytest.mark.parametrize(
    ("address", "python", "told"),
    [
        ("http://127.0.0.1:8265", sys.executable, "here"),
        ("http://localhost:8265", "/nowhere/python", "on the path"),
        ("http://head:8265", sys.executable, "on the path"),
    ],
)
def test_a_job_runs_this_python_only_where_the_cluster_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, python: str, told: str
) -> None:
    here, path = tmp_path / "my python", tmp_path / "python"
    for file, word in ((here, "here"), (path, "on the path")):
        file.write_text(f'#!/bin/sh\necho {word}; printf "%s\\n" "$@"\n')
        file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(here) if python == sys.executable else python)
    command = shell_command(address, "components.jobs", "ingest", SPEC.as_json())
    said = subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, capture_output=True, text=True, check=True)
    first, *arguments, spec = said.stdout.splitlines()
    assert (first, arguments) == (told, ["-m", "components.jobs", "ingest"])
    assert json.loads(spec)["project"] == "it's"


def test_a_job_that_was_stopped_is_not_tried_again_whatever_it_said_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "get_run_logger", lambda: logging.LoggerAdapter(logging.getLogger("job")))
    log: Any = jobs._Log(unseen)
    log('@kinora {"error": {"kind": "failure", "sentence": "the workers went away"}}')
    with pytest.raises(jobs.JobStoppedError, match="was stopped from outside"):
        jobs._answer(Job("kinora-1", attached=False), Ended("STOPPED", ""), log)
    with pytest.raises(StageError, match="the workers went away"):
        jobs._answer(Job("kinora-1", attached=False), Ended("FAILED", ""), log)
