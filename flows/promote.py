"""The flow that decides about the candidate."""

from prefect import flow

from components.jobs.run import Outcome
from flows.stage import opened_run, run_stages


@flow(name="promote", persist_result=False)
def promote(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Passes the candidate through the gate and moves the registry's aliases."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("promote",))
