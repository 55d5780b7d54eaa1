"""Turns the deployments of pipelines.yaml into Prefect's, and registers them: what is listed is there, what is not goes.

They run in the work pool `kinora`, so a worker that serves it (`kinora up` starts one) takes up what changes without a restart.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect import Flow
from prefect._vendor.croniter import croniter
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from components.config import SettingsError, read_settings_file
from components.deployments import Deployment
from components.stages import digest
from flows.triggers import has_trigger, make_trigger, remove_trigger, trigger

POOL = "kinora"
TAG = "kinora"  # of every deployment that is registered here, and so of its runs
HEARTBEAT_SECONDS = 30  # the least that Prefect allows; a run that is silent for three of them is dead
SEEN = ("version", "description", "paused", "parameters", "entrypoint", "job_variables")  # as the server has it, and as it is told
OVERRIDE = r"^[a-z_]+(\.[a-z_]+)*=.*$"


@dataclass(frozen=True)
class Change:
    """What registering did to one deployment; `next_run` is null where no schedule starts it."""

    name: str
    change: str  # created, updated, unchanged, removed
    starts: str
    next_run: datetime | None


def event_tag(event: str) -> str:
    """Answers the tag of a deployment that an event starts."""
    return f"on:{event}"


def flow_of(deployment: Deployment) -> Flow[..., Any]:
    """Imports a deployment's flow."""
    found: Flow[..., Any] = getattr(import_module(f"flows.{deployment.flow}"), deployment.flow)
    return found


def payload(deployment: Deployment, file: Path, folder: Path, pool_type: str) -> dict[str, Any]:
    """Answers what Prefect is told of a deployment.

    Args:
        file: the settings file; runs read the same one.
        folder: where runs work, so that `root` and `source` mean there what they mean here.
        pool_type: of the work pool; only a run that is a process of a machine is told a folder and a command.

    Raises:
        SettingsError: a parameter that the flow does not take.
    """
    flow = flow_of(deployment)
    environment = {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_FLOWS_DEFAULT_RETRIES": str(deployment.retries),
        "PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS": str(deployment.retry_delay_seconds),
    }
    job: dict[str, Any] = {"env": environment}
    if pool_type == ProcessWorker.type:
        environment["KINORA_CONFIG"] = str(file)
        job |= {"working_dir": str(folder), "command": shlex.join([sys.executable, "-m", "prefect.engine"])}
    started_by = [event_tag(deployment.on)] if deployment.on else []
    told = {
        "name": deployment.name,
        "description": deployment.description or (flow.description or "").partition("\n")[0],
        "entrypoint": f"flows.{deployment.flow}.{deployment.flow}",
        "tags": sorted({TAG, *deployment.tags, *started_by}),
        "parameters": parameters(deployment, flow, folder),
        "parameter_openapi_schema": schema(flow, file),
        "concurrency_limit": deployment.concurrency_limit,
        "paused": not deployment.active,
        "work_pool_name": POOL,
        "job_variables": job,
    }
    about = [told, deployment.model_dump(mode="json")]
    return told | {"version": digest(about)[:12]}


def parameters(deployment: Deployment, flow: Flow[..., Any], folder: Path) -> dict[str, Any]:
    """Answers what runs are given unless a person types something else; places become absolute."""
    given: dict[str, Any] = {name: getattr(deployment, name) for name in ("project", "profile")}
    given |= {name: str((folder / place).resolve()) for name in ("source", "manifest") if (place := getattr(deployment, name))}
    given["overrides"] = list(deployment.overrides) or None
    taken = parameter_schema(flow).properties
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in taken and name not in ("profile", "overrides"):
            raise SettingsError(f"deployment `{deployment.name}`: flow `{deployment.flow}` takes no `{name}`; hint: leave it out")
    return {name: value for name, value in given.items() if name in taken}


def schema(flow: Flow[..., Any], file: Path) -> dict[str, Any]:
    """Answers the form that a person fills in: the flow's parameters, with the profiles that there are to choose from."""
    form: dict[str, Any] = parameter_schema(flow).model_dump(exclude_unset=True) | {"additionalProperties": False}
    choices = {"profile": {"enum": sorted(read_settings_file(file).get("profiles") or {})}}
    for name, more in choices.items():
        for kind in form["properties"].get(name, {}).get("anyOf", []):
            if kind.get("type") == "string":
                kind.update(more)
    for kind in form["properties"].get("overrides", {}).get("anyOf", []):
        if kind.get("type") == "array":
            kind["items"] |= {"pattern": OVERRIDE}
    return form


def schedules(deployment: Deployment) -> list[DeploymentScheduleCreate]:
    """Answers the schedules of a deployment: one, or none."""
    if deployment.cron is None:
        return []
    cron = CronSchedule(cron=deployment.cron, timezone=deployment.timezone)
    return [DeploymentScheduleCreate(schedule=cron, active=deployment.active)]


def register(client: SyncPrefectClient, deployments: Sequence[Deployment], file: Path, folder: Path) -> list[Change]:
    """Makes the server's deployments those that are listed, and says what became of each; a second time changes nothing."""
    pool_type = ensure_pool(client)
    there = {found.name: found for found in registered(client)}
    changes = []
    for deployment in deployments:
        told = payload(deployment, file, folder, pool_type)
        before = there.get(deployment.name)
        change = "created" if before is None else "updated"
        if before is not None and is_as_told(before, deployment, told) and has_trigger(client, deployment, before.id):
            change = "unchanged"
        else:
            _send(client, deployment, told, before)
        changes.append(Change(deployment.name, change, starts(deployment), next_run(deployment)))
    gone = [found for name, found in there.items() if name not in {deployment.name for deployment in deployments}]
    for found in gone:
        _remove(client, found.id)
    return [*changes, *(Change(found.name, "removed", "", None) for found in gone)]


def registered(client: SyncPrefectClient, *tags: str) -> list[DeploymentResponse]:
    """Answers the deployments that were registered here, those with all of some tags."""
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG, *tags]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=wanted, offset=len(found)):
        found += page
    return [deployment for deployment in found if deployment.work_pool_name == POOL]


def unfinished_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Answers the runs of the work pool that have a process, as far as the server knows."""
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool)


def ensure_pool(client: SyncPrefectClient) -> str:
    """Makes the work pool where there is none, one of processes, and answers its type."""
    try:
        return client.read_work_pool(POOL).type
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        made = WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template, description="Kinora's scheduled flows")
        return client.create_work_pool(made).type


def starts(deployment: Deployment) -> str:
    """Answers in words when a deployment runs."""
    by_clock = f"{deployment.cron} {deployment.timezone}" if deployment.cron else ""
    by_event = f"on {deployment.on}" if deployment.on else ""
    return "" if not deployment.active else ", ".join(part for part in (by_clock, by_event) if part)


def next_run(deployment: Deployment) -> datetime | None:
    """Answers when the schedule starts the next run."""
    if deployment.cron is None or not deployment.active:
        return None
    found: datetime = croniter(deployment.cron, datetime.now(ZoneInfo(deployment.timezone))).get_next(datetime)
    return found


def check(deployments: Iterable[Deployment], file: Path, folder: Path) -> None:
    """Builds all that registering would send, without a server."""
    for deployment in deployments:
        payload(deployment, file, folder, ProcessWorker.type)
        schedules(deployment)
        trigger(deployment)


def _send(client: SyncPrefectClient, deployment: Deployment, told: dict[str, Any], before: DeploymentResponse | None) -> None:
    flow = flow_of(deployment)
    flow_id = client.create_flow_from_name(flow.name)
    if before is not None and before.flow_id != flow_id:  # to Prefect that is another deployment of the same name
        _remove(client, before.id)
    made = client.create_deployment(
        flow_id=flow_id,
        schedules=schedules(deployment),
        concurrency_options=_options(deployment),
        enforce_parameter_schema=True,
        pull_steps=[],
        **told,
    )
    make_trigger(client, deployment, made)


def _remove(client: SyncPrefectClient, deployment: UUID) -> None:
    remove_trigger(client, deployment)
    client.delete_deployment(deployment)


def is_as_told(found: DeploymentResponse, deployment: Deployment, told: dict[str, Any]) -> bool:
    """Compares what a person may have changed in the dashboard too."""
    limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    seen = {name: getattr(found, name) for name in SEEN} | {"tags": sorted(found.tags), "concurrency_limit": limit}
    if seen != {name: told[name] for name in seen} or not found.enforce_parameter_schema:
        return False
    return found.concurrency_options == _options(deployment) and _times(found.schedules) == _times(schedules(deployment))


def _options(deployment: Deployment) -> ConcurrencyOptions:
    return ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(deployment.collision_strategy))


def _times(of: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(getattr(one.schedule, "cron", None), getattr(one.schedule, "timezone", None), one.active) for one in of]
