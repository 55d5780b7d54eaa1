"""The flow that captions the kept clips."""

from prefect import flow

from components.jobs.run import Outcome
from flows.stage import opened_run, run_stages


@flow(name="caption", persist_result=False)
def caption(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Captions every kept clip whose caption is missing or stale.

    Args:
        project: Where the run lives below the root; empty is the name of the source, or `demo`.
        source: The folder of footage; empty is the synthetic world.
        manifest: A CSV file with captions, sources and rights of the footage; empty takes `manifest.csv` beside it.
        profile: The profile of pipelines.yaml; empty takes its defaults.
        overrides: Settings that win over the profile, one `section.name=value` each, for example `dit.steps=200`.
    """
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("caption",))
