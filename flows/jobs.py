"""A stage as a job of a cluster: submitted or found again, its log and progress carried to Prefect, stopped with its flow."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_HOME

from components.cluster import jobs_api, kubernetes
from components.cluster.following import Ended, Job
from components.jobs.run import Outcome, Run
from components.jobs.spec import JobSpec, heard, raise_told, spec_of
from components.jobs.stage import fresh_outcome
from components.operations.freshness import assess
from components.store import mirror
from components.store.secret_names import without_password
from components.store.servers import live_servers
from flows.away import AWAY, wait_for_prefect
from flows.embedded import lasting_address

logger = logging.getLogger("kinora")

WATCH_SECONDS = 5.0
FIRST_LINE = "Running entrypoint for job"
outermost: ContextVar[UUID] = ContextVar("outermost")


class JobStoppedError(RuntimeError):
    """Somebody stopped the job, not its flow; a second try would only do what they did not want."""


class JobDiedError(RuntimeError):
    """The job ended without a word; another try goes on where it was."""


class RunCancelledError(RuntimeError):
    """Somebody cancelled the flow run in Prefect, so its job was stopped."""


class Cluster(Protocol):
    """Where jobs run: they are started, followed to their end, stopped, and listed."""

    def submit(self, name: str, stage: str, spec: JobSpec, metadata: dict[str, str]) -> Job: ...

    def follow(self, job: Job, on_line: Callable[[str], None], watch: Callable[[], None]) -> Ended: ...

    def stop(self, job_id: str) -> bool: ...

    def listed(self) -> list[jobs_api.Listed]: ...


class RayCluster:
    """A Ray cluster, by its Jobs API."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = jobs_api.open_client(address)

    def submit(self, name: str, stage: str, spec: JobSpec, metadata: dict[str, str]) -> Job:
        command = jobs_api.shell_command(self.address, "components.jobs", stage, spec.as_json())
        return jobs_api.submit(self.client, name, command, metadata)

    def follow(self, job: Job, on_line: Callable[[str], None], watch: Callable[[], None]) -> Ended:
        return jobs_api.follow(self.client, job, on_line, watch)

    def stop(self, job_id: str) -> bool:
        return jobs_api.stop(self.client, job_id)

    def listed(self) -> list[jobs_api.Listed]:
        return jobs_api.jobs_of_ours(self.client)


class KubernetesCluster:
    """Kubernetes, where each job has a Ray cluster of its own."""

    def submit(self, name: str, stage: str, spec: JobSpec, metadata: dict[str, str]) -> Job:
        return kubernetes.submit(kubernetes.job_name(name, stage), "components.jobs", stage, spec.as_json(), metadata)

    def follow(self, job: Job, on_line: Callable[[str], None], watch: Callable[[], None]) -> Ended:
        return kubernetes.follow(job, on_line, watch)

    def stop(self, job_id: str) -> bool:
        return kubernetes.stop(job_id)

    def listed(self) -> list[jobs_api.Listed]:
        return kubernetes.jobs_of_ours()


def run_as_job(run: Run, stage: str, open_cluster: Callable[[Path], Cluster]) -> Outcome:
    """Runs a stage as a job unless nothing of it is stale; a job of the same work that still runs is joined, not doubled.

    Raises:
        ValueError, OSError, StageError: what the stage raised in its job.
        JobDiedError, JobStoppedError, RunCancelledError: the job ended otherwise.
    """
    mirror.pull(run.project)
    before = assess(stage, run.config, run.project, run.source, run.manifest)
    return fresh_outcome(run, before) if before.fresh else work_as_job(run, stage, before.key, open_cluster)


def work_as_job(run: Run, stage: str, key: str, open_cluster: Callable[[Path], Cluster]) -> Outcome:
    """Runs a stage or a trial as a job, or joins the job of the same key that still runs.

    Raises:
        ValueError, OSError, StageError: what was raised in the job.
        JobDiedError, JobStoppedError, RunCancelledError: the job ended otherwise.
    """
    spec, cluster = spec_of(run), open_cluster(run.project.root)
    name = jobs_api.job_name(run.project.name, stage, key)
    root = outermost.get()
    log = _Log(run.progress)
    wait_for_prefect()
    with get_client(sync_client=True) as prefect:
        _tag(prefect, root, name)  # before there is a job, so that no reaper takes it for an orphan
        metadata = {"flow_run_id": str(root), "project": run.project.name, "stage": stage, "prefect": records(), "name": name}
        job = cluster.submit(name, stage, spec, metadata)
        log.logger.info("%s job %s", "joined" if job.attached else "submitted", job.id)
        try:
            ended = cluster.follow(job, log, _Watch(prefect, root))
        except BaseException as error:
            unwanted = not isinstance(error, Exception) or isinstance(error, RunCancelledError)
            if unwanted and not _followers(prefect, name, root) and not cluster.stop(job.id):
                logger.warning("job `%s` could not be stopped; the flow `reap` tries it again", job.id)
            raise
    mirror.pull(run.project)  # what the job made elsewhere, to be shown here
    return _answer(job, ended, log)


def ray_cluster(root: Path) -> RayCluster:
    """Answers the Ray cluster of RAY_ADDRESS, or the one that `kinora up` started.

    Raises:
        ValueError: neither is there.
    """
    address = jobs_address(root)
    if address is None:
        raise ValueError(
            "`cluster.stages_in` is job, and no cluster's Jobs API is named; "
            "hint: RAY_ADDRESS=http://HEAD:8265, `kinora up` for one on this machine, or `--set cluster.stages_in=process`"
        )
    return RayCluster(address)


def jobs_address(root: Path) -> str | None:
    """Answers where the Jobs API listens: RAY_ADDRESS says it, or names the head that `kinora up` started; else None."""
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        return address
    ours = live_servers(root).get("ray")
    return ours.dashboard if ours is not None and address in ("", ours.address) else None


def records() -> str:
    """Answers which Prefect keeps the records of this flow, so that another one's reaper leaves its jobs alone."""
    return without_password(lasting_address() or "") or f"{socket.gethostname()}:{PREFECT_HOME.value()}"


def job_tag(name: str) -> str:
    """Answers the tag of the flow runs that follow a job."""
    return f"job:{name}"


def living(prefect: SyncPrefectClient, tag: str) -> list[UUID]:
    """Answers the flow runs with a tag that are not over."""
    over = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES)))
    found = prefect.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=over))
    return [flow_run.id for flow_run in found]


class _Log:
    """Takes a job's log line by line: progress to whoever watches, ordinary lines to Prefect, the last word kept."""

    def __init__(self, progress: Callable[[int, int, str], None]) -> None:
        self.progress = progress
        adapter: Any = get_run_logger()
        adapter.logger.setLevel(logging.INFO)  # the command is quiet, the server keeps it
        self.logger = adapter
        self.outcome: Outcome | None = None
        self.error: dict[str, Any] | None = None

    def __call__(self, line: str) -> None:
        told = heard(line)
        if told is None:
            if line.strip() and not line.startswith(FIRST_LINE):  # which is the whole spec
                self.logger.info(line)
        elif "progress" in told:
            self.progress(*told["progress"])
        elif "outcome" in told:
            self.outcome = Outcome(**told["outcome"])
        elif "error" in told:
            self.error = told["error"]


class _Watch:
    """Asks every few seconds whether somebody cancelled the flow run, which no signal tells a flow that nobody serves."""

    def __init__(self, prefect: SyncPrefectClient, flow_run: UUID) -> None:
        self.prefect, self.flow_run = prefect, flow_run
        self.asked = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.asked < WATCH_SECONDS:
            return
        self.asked = time.monotonic()
        with contextlib.suppress(*AWAY):
            state = self.prefect.read_flow_run(self.flow_run).state
            if state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                raise RunCancelledError("the run was cancelled in Prefect; hint: the same command goes on where it was")


def _answer(job: Job, ended: Ended, log: _Log) -> Outcome:
    if ended.status == "STOPPED":  # whatever it said when it was told to end
        raise JobStoppedError(f"job `{job.id}` was stopped from outside; hint: the same command goes on where it was")
    if log.error is not None:
        raise_told(log.error)
    if log.outcome is not None and ended.status == "SUCCEEDED":
        return log.outcome
    raise JobDiedError(f"job `{job.id}` died ({' '.join(ended.message.split())[:300]}); hint: the same command goes on where it was")


def _tag(prefect: SyncPrefectClient, flow_run: UUID, name: str) -> None:
    tags = set(prefect.read_flow_run(flow_run).tags) | {job_tag(name)}
    prefect.update_flow_run(flow_run, tags=sorted(tags))


def _followers(prefect: SyncPrefectClient, name: str, but: UUID) -> list[UUID]:
    """Answers the other flow runs that wait for a job; none where Prefect does not say."""
    try:
        return [flow_run for flow_run in living(prefect, job_tag(name)) if flow_run != but]
    except AWAY:
        return []


def this_flow_run() -> UUID:
    """Answers the flow run whose code this is."""
    context = FlowRunContext.get()
    assert context is not None, "a stage runs inside a flow"
    assert context.flow_run is not None, "a stage runs inside a flow"
    return context.flow_run.id
