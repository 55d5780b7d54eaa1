"""How a flow runs a stage: as one Prefect task around the stage's body in `components.jobs`."""

import base64
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import prefect.settings
from prefect import State, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.settings import temporary_settings
from prefect.states import Completed

from components.cluster.session import ray_session
from components.config import load_config
from components.jobs.run import Outcome, Run, unseen
from components.jobs.stage import run_stage
from components.store import mirror
from components.store.project import Project, project_of
from flows.announce import announced, publish_spent
from flows.away import Shown, wait_for_prefect
from flows.commands.options import remember_source, source_of
from flows.finishing import finished, note
from flows.jobs import Cluster, JobStoppedError, KubernetesCluster, RunCancelledError, outermost, ray_cluster, run_as_job, this_flow_run
from flows.progress import stage_progress

SKIPPED = "Skipped"
IN_PROCESS = ("promote",)  # whoever writes the registry has a password that no job is given
OPENED: dict[str, Callable[[Path], Cluster]] = {"job": ray_cluster, "kubernetes": lambda root: KubernetesCluster()}
held_ray: ContextVar[contextlib.ExitStack] = ContextVar("held_ray")
QUICK_SUBFLOWS = {prefect.settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}  # joining a heartbeat costs each subflow a second


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Answers False for what a second try cannot mend: a person's mistake or wish, or an interrupt."""
    try:
        state.result()
    except (ValueError, JobStoppedError, RunCancelledError):
        return False
    except BaseException as error:
        return isinstance(error, Exception)
    return False


@task(retries=1, retry_delay_seconds=5, retry_condition_fn=worth_retrying, cache_policy=NO_CACHE, persist_result=False)
def run_stage_task(run: Run, stage: str) -> Any:
    """Runs one stage, or records why it was skipped."""
    with stage_progress(stage) as progress:
        try:
            outcome = run_where_set(dataclasses.replace(run, progress=progress), stage)
        except Exception as error:
            if was_terminated(error):
                raise TerminationSignal(signal.SIGTERM) from error
            raise
        progress(1, 1, outcome.why if outcome.action == "skip" else "")
    publish_patiently(outcome)
    wait_for_prefect()
    if outcome.action == "skip":
        return Completed(name=SKIPPED, message=outcome.why)
    return outcome


def was_terminated(error: BaseException | None) -> bool:
    """Answers whether an error is SIGTERM's in other clothes: raised inside a library, it comes out as one of the library's own."""
    while error is not None:
        if isinstance(error, TerminationSignal) or TerminationSignal.__name__ in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def run_where_set(run: Run, stage: str) -> Outcome:
    """Runs a stage where the settings say: in this process, which is a driver of Ray, or as a job of a cluster."""
    where = run.config.cluster.stages_in
    if stage in IN_PROCESS and where != "process":
        return run_stage(without_ray(run), stage)
    if where == "process":
        return run_stage(run, stage, lambda: need_ray(run))
    return run_as_job(run, stage, OPENED[where])


def without_ray(run: Run) -> Run:
    """Answers a run whose row stages work in this process, on its CPUs: beside a cluster it needs neither a Ray nor a GPU of its own."""
    alone: dict[str, Any] = {"num_actors": 0, "gpus_per_actor": 0.0}
    here = {name: getattr(run.config, name).model_copy(update=alone) for name in ("caption", "encode")}
    return dataclasses.replace(run, config=run.config.model_copy(update=here))


def publish_patiently(outcome: Outcome) -> None:
    """Publishes once Prefect is there, and once more where it went away meanwhile; what a stage shows is not worth its failure."""
    for _ in range(2):
        wait_for_prefect()
        if Shown()(lambda: publish(outcome)):
            return


def publish(outcome: Outcome) -> None:
    """Puts what a stage has to show into Prefect: tables, pictures and text as artifacts."""
    show = outcome.result.get("show", {})
    prefix = outcome.stage.replace("_", "-")
    for name, rows in show.get("tables", {}).items():
        create_table_artifact(table=rows, key=f"{prefix}-{name}", description=f"{outcome.stage}: {name}")
    for name, path in show.get("images", {}).items():
        if not Path(path).is_file():  # a job's machine may keep its pictures elsewhere
            continue
        picture = base64.b64encode(Path(path).read_bytes()).decode()
        create_image_artifact(image_url=f"data:image/png;base64,{picture}", key=f"{prefix}-{name}", description=f"{outcome.stage}: {name}")
    for name, text in show.get("markdown", {}).items():
        create_markdown_artifact(markdown=text, key=f"{prefix}-{name}", description=f"{outcome.stage}: {name}")


def run_stages(run: Run, stages: Sequence[str]) -> list[Outcome]:
    """Runs stages one after another as tasks of the flow that calls this."""
    answers: list[Any] = [run_stage_task.with_options(name=stage)(run, stage) for stage in stages]
    ran = [stage for stage, answer in zip(stages, answers, strict=True) if isinstance(answer, Outcome)]
    outcomes = [_outcome(run, stage, answer) for stage, answer in zip(stages, answers, strict=True)]
    note(outcomes)
    Shown()(lambda: publish_spent(run, ran))
    wait_for_prefect()  # which the end of this flow is told
    return outcomes


def _outcome(run: Run, stage: str, answer: Outcome | State[Any]) -> Outcome:
    """A task that names its state answers the state in place of its result."""
    if isinstance(answer, Outcome):
        return answer
    record = run.project.record(stage) or {}
    return Outcome(stage, "skip", answer.message or "", 0.0, record.get("result", {}))


@contextlib.contextmanager
def opened_run(
    project: str | None, source: str | None, manifest: str | None, profile: str | None, overrides: Sequence[str] | None
) -> Iterator[Run]:
    """Resolves a flow's typed parameters into a run, which keeps the Ray that a stale stage starts for as long as the block lasts.

    At the end of the outermost such block the run's report is written.
    """
    config = load_config(profile, tuple(overrides or ()))
    place = Project(Path(config.root), project_of(project, source), config.cluster.storage)
    mirror.pull(place)  # a machine without this project yet is told its source by the storage
    spec = source_of(place, source, manifest)
    if place.record("source") is None:
        remember_source(place, spec)
    run = Run(config=config, project=place, source=spec.folder, manifest=spec.manifest, progress=unseen)
    with announced(place), finished(run), ray_when_needed(), temporary_settings(QUICK_SUBFLOWS):
        yield run


@contextlib.contextmanager
def ray_when_needed() -> Iterator[None]:
    """Keeps what `need_ray` starts until the outermost flow of this process ends; a flow with nothing stale starts none."""
    if held_ray.get(None) is not None:
        yield
        return
    with contextlib.ExitStack() as sessions:
        before, flow_run = held_ray.set(sessions), outermost.set(this_flow_run())
        try:
            yield
        finally:
            held_ray.reset(before)
            outermost.reset(flow_run)


def need_ray(run: Run) -> None:
    """Waits for a connected Ray, the one of an earlier stage or a new one."""
    held_ray.get().enter_context(ray_session(run.config, run.project.root))
