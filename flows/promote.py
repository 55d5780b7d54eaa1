"""The flow that decides about the candidate."""

from prefect import flow

from components.jobs.run import Outcome
from flows.events import model_promoted
from flows.parameters import described
from flows.stage import opened_run, run_stages


@flow(name="promote", persist_result=False)
@described
def promote(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Passes the candidate through the gate and moves the registry's aliases."""
    with opened_run(project, source, manifest, profile, overrides) as run:
        outcomes = run_stages(run, ("promote",))
        for outcome in outcomes:
            announce(run.project.name, outcome)
        return outcomes


def announce(project: str, outcome: Outcome) -> None:
    """Tells of a new text-to-video champion, so that what is deployed on `model.promoted` starts."""
    if outcome.action == "run" and outcome.result["verdicts"].get("text-to-video") == "promote":
        model_promoted(project, f"{project}-text-to-video", outcome.result["versions"]["text-to-video"])
