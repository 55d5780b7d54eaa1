"""The report at the end of a flow, whoever started it: written once, by the outermost block, and again only for what is new."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.jobs.run import Outcome
from components.operations.reported import WRITTEN, report_is_due
from components.store.project import Project
from flows.finishing import note, watched_course
from flows.stage import held_ray, opened_run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Project]:
    """Where the blocks of flows work, as within a flow."""
    monkeypatch.setenv("KINORA_CONFIG", str(repository / "pipelines.yaml"))
    before = held_ray.set(contextlib.ExitStack())
    yield Project(tmp_path, "demo")
    held_ray.reset(before)


def flow(project: Project, action: str, fault: Exception | None = None) -> None:
    """A flow around the flow of a stage that ran, or was fresh."""
    given = (None, None, None, "test", [f"root={project.root}"])
    with opened_run(*given):
        with opened_run(*given) as run:
            result = {"summary": "passed"}
            if action == "run":
                record = {"maker": "0" * 64, "result": result, "seconds": 1.0, "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
                run.project.write_record("promote", record)
            note([Outcome("promote", action, "", 1.0, result)])
        assert action == "skip" or not (project.folder / "report.html").exists(), "the outermost block writes it"
        if fault is not None:
            raise fault


def written(project: Project) -> list[int]:
    return [(project.folder / name).stat().st_mtime_ns for name in WRITTEN]


def test_a_flow_leaves_report_and_summary_and_one_that_finds_all_fresh_leaves_them_alone(project: Project) -> None:
    with watched_course() as course:
        flow(project, "run")
    assert course.report is not None
    assert [(stage.name, stage.status) for stage in course.report.stages] == [("promote", "done")]
    first = written(project)
    flow(project, "skip")
    assert written(project) == first


def test_a_report_that_an_earlier_run_did_not_come_to_is_written_by_the_next(project: Project) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        flow(project, "run", RuntimeError("in the middle"))
    assert report_is_due(project)
    flow(project, "skip")
    assert not report_is_due(project)
    os.utime(project.folder / "summary.json", (0, 0))
    assert report_is_due(project)
