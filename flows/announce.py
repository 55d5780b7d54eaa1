"""What a flow says of itself to whoever looks from outside: that it runs, and at its end what its stages spent."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from components.jobs.run import Run
from components.operations.plan import FLOW_STAGES
from components.operations.running import announced_run
from components.stages import STAGES
from components.store.project import Project
from components.store.secret_names import without_password
from flows.embedded import lasting_address


def announced(project: Project) -> AbstractContextManager[None]:
    """Answers a context for as long as which `kinora status` knows this flow run and the way to it in Prefect."""
    context = FlowRunContext.get()
    name = context.flow.name if context is not None and context.flow is not None else "stages"
    flow_run = str(context.flow_run.id) if context is not None and context.flow_run is not None else None
    prefect = without_password(lasting_address() or "") or None
    return announced_run(project, name, FLOW_STAGES.get(name, tuple(STAGES)), flow_run=flow_run, prefect=prefect)


def publish_spent(run: Run, stages: Sequence[str]) -> None:
    """Puts what stages spent when they ran last into Prefect, as one table."""
    rows: list[dict[str, Any]] = []
    for stage in stages:
        record = run.project.record(stage) or {}
        if "spent" in record:
            spent = record["spent"]
            shown = ("work_seconds", "core_seconds", "gpu_seconds", "num_bytes", "useful_steps", "repeated_steps")
            rows.append({"stage": stage, "seconds": round(record["seconds"], 1), **{name: spent.get(name) for name in shown}})
    if rows:
        create_table_artifact(table=rows, key="spent", description="what each stage spent when it ran last")
