"""What the run of a project is doing, or the last one did: stage by stage, who runs it, what is up, where to look. It only reads."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.operations import running
from components.operations.plan import resumes_from
from components.stages import STAGES, TRAIN_STAGES
from components.store.project import Project
from components.store.secret_names import without_password
from components.store.servers import live_servers

WAITING, EARLIER, NEVER = "waiting", "earlier", "never"  # beside those of `running`


@dataclass(frozen=True)
class StageStatus:
    """One stage.

    Attributes:
        state: running, done, skipped (it was fresh), failed, killed; waiting for its turn in a run; earlier, done by a run before
            this one; never.
        said: loss or rows of one that runs, the reason of one that was skipped, the sentence of one that failed, else its result.
        seconds_left: of the rows or steps that are counted now, at the pace so far; null before there is a pace.
    """

    stage: str
    state: str
    said: str = ""
    done: int | None = None
    total: int | None = None
    seconds: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Status:
    """A project's run, its stages and what is around them; `run` is empty before the first one."""

    project: str
    run: dict[str, Any]
    stages: list[StageStatus]
    locks: list[str] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def in_progress(self) -> bool:
        return self.run.get("state") == running.RUNNING or any(stage.state == running.RUNNING for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"in_progress": self.in_progress}


def read_status(project: Project) -> Status:
    """Reads what is known of a project's run.

    Raises:
        ValueError: the project was never run.
    """
    if not (project.folder / "state").is_dir():
        raise ValueError(f"project `{project.name}` has not run yet in `{project.root}`; hint: `kinora run --project {project.name}`")
    run = running.read(running.run_file(project))
    return Status(
        project=project.name,
        run=run,
        stages=[_stage(project, stage, run) for stage in STAGES],
        locks=_locks(project),
        servers={name: server.dashboard or server.address for name, server in live_servers(project.root).items()},
        links=_links(project, run),
        figures=_figures(project.folder / "summary.json"),
    )


def _stage(project: Project, stage: str, run: Mapping[str, Any]) -> StageStatus:
    said, record = running.read(running.stage_file(project, stage)), project.record(stage)
    state = said.get("state")
    of_this_run = bool(run) and said.get("began_at", 0.0) >= run["began_at"]
    if state == running.RUNNING or (of_this_run and state is not None):
        return _told(project, stage, said, record)
    if run.get("state") == running.RUNNING and stage in run["stages"]:
        return StageStatus(stage, WAITING)
    if state in (running.FAILED, running.KILLED):
        return _told(project, stage, said, record)
    if record is None or "result" not in record:
        return StageStatus(stage, NEVER)
    return StageStatus(stage, EARLIER, _result(record), seconds=record.get("seconds"))


def _told(project: Project, stage: str, said: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageStatus:
    """Puts into a line what a stage says of itself."""
    state, done, total = said["state"], said.get("done"), said.get("total")
    seconds = said.get("ended_at", said.get("beat_at", said["began_at"])) - said["began_at"]
    match state:
        case running.RUNNING:
            seconds = time.time() - said["began_at"]
            return StageStatus(stage, state, said.get("note", ""), done, total, seconds, _seconds_left(said))
        case running.FAILED:
            return StageStatus(stage, state, said.get("error", ""), done, total, seconds)
        case running.KILLED:
            return StageStatus(stage, state, f"{_resumes(project, stage, said)}", done, total, seconds)
        case running.SKIPPED:
            return StageStatus(stage, state, said.get("why", ""))
    return StageStatus(stage, state, _result(record or {}), done, total, seconds)


def _resumes(project: Project, stage: str, said: Mapping[str, Any]) -> str:
    if stage in TRAIN_STAGES:
        step = resumes_from(project, stage, said.get("key", ""))
        return f"resumes from {step}" if step else "starts again from its first step"
    return "resumes with the rows that are left"


def _seconds_left(said: Mapping[str, Any]) -> float | None:
    """Answers the time left at the pace since these rows or steps began."""
    done, total = said.get("done"), said.get("total")
    if not total or done is None or "phase_began_at" not in said:
        return None
    advanced, took = done - said["phase_began_with"], said["beat_at"] - said["phase_began_at"]
    if advanced <= 0 or took <= 0:
        return None
    return max(0.0, float((total - done) * took / advanced - (time.time() - said["beat_at"])))


def _result(record: Mapping[str, Any]) -> str:
    return str(record.get("result", {}).get("summary", ""))


def _locks(project: Project) -> list[str]:
    """Answers who holds the lock of which stage on this machine, as the system lists them; looking takes none."""
    try:
        held = {int(line.split()[5].rpartition(":")[2]) for line in Path("/proc/locks").read_text().splitlines() if " FLOCK " in line}
    except (OSError, ValueError, IndexError):
        return []
    found = []
    for path in sorted((project.folder / "locks").glob("*.lock")):
        if path.stem in STAGES and path.stat().st_ino in held:
            found.append(f"{path.stem}: {path.read_text().strip() or 'another process'}")
    return found


def _links(project: Project, run: Mapping[str, Any]) -> dict[str, str]:
    """Answers where a person sees more: the flow run in Prefect, each training in MLflow, where these have a server."""
    links = {}
    if run.get("flow_run") and str(run.get("prefect", "")).startswith("http"):
        links["prefect"] = f"{run['prefect'].rstrip('/').removesuffix('/api')}/runs/flow-run/{run['flow_run']}"
    tracking = without_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if tracking.startswith("http"):
        for stage in TRAIN_STAGES:
            if run_id := ((project.record(stage) or {}).get("result") or {}).get("run_id"):
                links[f"mlflow {stage}"] = f"{tracking.rstrip('/')}/#/runs/{run_id}"
    if (project.folder / "report.html").is_file():
        links["report"] = str(project.folder / "report.html")
    return links


def _figures(path: Path) -> dict[str, Any]:
    """Answers the figures of the last whole report that have a bar."""
    try:
        return {name: figure for name, figure in json.loads(path.read_text()).items() if figure["bar"] is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
