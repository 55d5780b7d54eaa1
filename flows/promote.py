"""The flow that decides about the candidate."""

from prefect import flow

from components.jobs.run import Outcome
from flows.events import model_promoted
from flows.stage import opened_run, run_stages


@flow(name="promote", persist_result=False)
def promote(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Passes the candidate through the gate and moves the registry's aliases.

    Args:
        project: Where the run lives below the root; empty is the name of the source, or `demo`.
        source: The folder of footage; empty is the synthetic world.
        manifest: A CSV file with captions, sources and rights of the footage; empty takes `manifest.csv` beside it.
        profile: The profile of pipelines.yaml; empty takes its defaults.
        overrides: Settings that win over the profile, one `section.name=value` each, for example `dit.steps=200`.
    """
    with opened_run(project, source, manifest, profile, overrides) as run:
        outcomes = run_stages(run, ("promote",))
        for outcome in outcomes:
            announce(run.project.name, outcome)
        return outcomes


def announce(project: str, outcome: Outcome) -> None:
    """Tells of a new text-to-video champion, so that what is deployed on `model.promoted` starts."""
    if outcome.action == "run" and outcome.result["verdicts"].get("text-to-video") == "promote":
        model_promoted(project, f"{project}-text-to-video", outcome.result["versions"]["text-to-video"])
