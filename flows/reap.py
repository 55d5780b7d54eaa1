"""Ends what outlived its flow: jobs whose flow run is over, and runs of subflows that nobody runs any more."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Crashed

from components.cluster.session import RayUnavailableError
from components.config import load_config
from components.deployments import FLOWS
from components.sections import Config
from flows.jobs import Cluster, KubernetesCluster, RayCluster, job_tag, jobs_address, living, records

PAGE = 200


@flow(name="reap", persist_result=False)
def reap(profile: str | None = None, overrides: list[str] | None = None, grace_seconds: int = 60) -> dict[str, list[str]]:
    """Marks orphaned runs of subflows as crashed, then stops the jobs that no living flow run follows.

    A subflow has no heartbeat of its own, and a flow that was killed stops no job. Doing it twice does nothing.

    Args:
        profile: The profile of pipelines.yaml; empty takes its defaults.
        overrides: Settings that win over the profile, one `section.name=value` each.
        grace_seconds: how long a flow run must be over, so that it can tidy up by itself.
    """
    config = load_config(profile, tuple(overrides or ()))
    done: dict[str, list[str]] = {"crashed": [], "stopped": [], "remarks": []}
    with get_client(sync_client=True) as prefect:
        done["crashed"] = crash_orphans(prefect, grace_seconds)
        for open_cluster in clusters(config):
            try:
                done["stopped"] += stop_orphans(prefect, open_cluster(), grace_seconds)
            except RayUnavailableError as error:  # it may be back the next time
                done["remarks"].append(str(error))
    said = "; ".join(f"{what}: {', '.join(names)}" for what, names in done.items() if names)
    get_run_logger().info(said or "nothing to reap")
    if done["crashed"] or done["stopped"]:
        create_markdown_artifact(markdown=said, key="reaped", description="what outlived its flow and was ended")
    return done


def clusters(config: Config) -> list[Callable[[], Cluster]]:
    """Answers what opens each cluster that may hold jobs of ours, by the settings and by what is named or was started here."""
    address = jobs_address(Path(config.root))
    found: list[Callable[[], Cluster]] = [] if address is None else [lambda: RayCluster(address)]
    return [*found, KubernetesCluster] if config.cluster.stages_in == "kubernetes" else found


def crash_orphans(prefect: SyncPrefectClient, grace_seconds: float) -> list[str]:
    """Marks runs of our subflows that say they run although the run that called them is over; answers their names.

    The server may hold flows of others, and a deployment's run that another flow asked for has a process of its own.
    """
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=False),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    crashed = []
    for orphan in prefect.read_flow_runs(flow_filter=ours, flow_run_filter=running, limit=PAGE):
        parent = _parent(prefect, orphan)
        seconds = _age(orphan) if parent is None else _over_since(parent)  # its own call may not be written down yet
        if seconds > grace_seconds:
            said = "is gone" if parent is None or parent.state is None else f"is {parent.state.name}"
            prefect.set_flow_run_state(orphan.id, Crashed(message=f"the run that called it {said}"), force=True)
            crashed.append(orphan.name)
    return crashed


def stop_orphans(prefect: SyncPrefectClient, cluster: Cluster, grace_seconds: float) -> list[str]:
    """Stops the jobs of flow runs that are over or gone, unless another run follows them; answers the ids of those that ended."""
    stopped = []
    for job in cluster.listed():
        owner = job.metadata.get("flow_run_id")
        if not job.running or owner is None or job.metadata.get("prefect") != records():
            continue
        flow_run = _flow_run(prefect, UUID(owner))
        tag = job_tag(job.metadata.get("name") or job.id.rpartition("-")[0])
        orphaned = (flow_run is None or _over_since(flow_run) > grace_seconds) and not living(prefect, tag)
        if orphaned and cluster.stop(job.id):
            stopped.append(job.id)
    return stopped


def _parent(prefect: SyncPrefectClient, flow_run: FlowRun) -> FlowRun | None:
    assert flow_run.parent_task_run_id is not None, "asked for runs of subflows only"
    try:
        caller = prefect.read_task_run(flow_run.parent_task_run_id)
    except ObjectNotFound:
        return None
    return None if caller.flow_run_id is None else _flow_run(prefect, caller.flow_run_id)


def _flow_run(prefect: SyncPrefectClient, flow_run_id: UUID) -> FlowRun | None:
    try:
        return prefect.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return None


def _over_since(flow_run: FlowRun) -> float:
    """Answers for how many seconds a flow run has been over; below zero while it is not."""
    return _age(flow_run) if flow_run.state is not None and flow_run.state.is_final() else -1.0


def _age(flow_run: FlowRun) -> float:
    """Answers for how many seconds a flow run has been in its state."""
    return time.time() - flow_run.state.timestamp.timestamp() if flow_run.state is not None else 0.0
