"""The flow from footage to curated clips."""

from prefect import flow

from components.jobs.run import Outcome
from flows.parameters import described
from flows.stage import opened_run, run_stages


@flow(name="ingest", persist_result=False)
@described
def ingest(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Splits new footage into scenes and clips, then measures, deduplicates, splits and filters them."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("ingest", "curate"))
