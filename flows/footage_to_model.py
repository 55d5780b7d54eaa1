"""The whole road: from footage to a promoted text-to-video model, one subflow a stage."""

from prefect import flow

from components.jobs.run import Outcome
from components.operations.finetune import base_model
from components.stages import STAGES
from flows.announce import publish_spent
from flows.away import Shown
from flows.caption import caption
from flows.encode import encode
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.parameters import described
from flows.promote import promote
from flows.stage import opened_run
from flows.train_captioner import train_captioner
from flows.train_dit import train_dit
from flows.train_vae import train_vae

STAGE_FLOWS = (ingest, train_captioner, caption, train_vae, encode, train_dit, evaluate, promote)


@flow(name="footage_to_model", persist_result=False)
@described
def footage_to_model(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> list[Outcome]:
    """Runs every stage in order; each does only what is stale."""
    outcomes: list[Outcome] = []
    with opened_run(project, source, manifest, profile, overrides) as run:
        base_model(run.config, run.project)  # what is to be trained further is there, or nothing begins
        for stage_flow in STAGE_FLOWS:
            once = stage_flow.with_options(retries=0)  # a deployment's retries are of the whole
            outcomes += once(project, source, manifest, profile, overrides)
        if any(outcome.action == "run" for outcome in outcomes):
            Shown()(lambda: publish_spent(run, tuple(STAGES)))
    return outcomes
