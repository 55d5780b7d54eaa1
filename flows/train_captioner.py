"""The flow that trains the captioner."""

from prefect import flow

from components.jobs.run import Outcome
from flows.parameters import described
from flows.stage import opened_run, run_stages


@flow(name="train_captioner", persist_result=False)
@described
def train_captioner(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Trains the OpenCLIP CoCa captioner on the labelled share of the footage."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        return run_stages(run, ("train_captioner",))
