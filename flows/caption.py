"""The flow that captions the kept clips."""

from prefect import flow

from components.jobs.run import Outcome
from flows.parameters import described
from flows.stage import opened_run, run_stages


@flow(name="caption", persist_result=False)
@described
def caption(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Captions every kept clip whose caption is missing or stale."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("caption",))
