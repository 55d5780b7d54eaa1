"""The flow that samples and measures."""

from prefect import flow

from components.jobs.run import Outcome
from flows.parameters import described
from flows.stage import opened_run, run_stages


@flow(name="evaluate", persist_result=False)
@described
def evaluate(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Generates samples of the candidate and measures them beside real clips."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("evaluate",))
