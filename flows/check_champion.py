"""The flow that tries a promoted champion, and takes it back where it makes no videos."""

import dataclasses
from pathlib import Path

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.states import Completed

from components.config import load_config
from components.jobs.run import Outcome, Run, unseen
from components.store.project import Project, project_of
from flows.jobs import this_flow_run, work_as_job
from flows.stage import OPENED, publish_patiently, ray_when_needed


@flow(name="check_champion", persist_result=False)
def check_champion(project: str | None = None, profile: str | None = None, overrides: list[str] | None = None) -> State[None]:
    """Loads the champion as a user would and generates a few videos; the previous champion serves again where it fails.

    Args:
        project: Whose champion; empty is `demo`.
        profile: The profile of pipelines.yaml; empty takes its defaults.
        overrides: Settings that win over the profile, one `section.name=value` each, for example `gate.max_repeat_share=0.4`.
    """
    from components.jobs.check_champion import ChampionRefusedError, conclude  # not for those who only register this flow

    config = load_config(profile, tuple(overrides or ()))
    place = Project(Path(config.root), project_of(project), config.cluster.storage)
    run = Run(config, place, None, None, unseen)
    with ray_when_needed():
        tried = try_where_set(run)
    publish_patiently(tried)
    try:
        return Completed(message=conclude(run, tried))  # here, whatever tried it: no job is given the password of the registry
    except ChampionRefusedError:
        try_no_more()  # another try would find the previous champion well, and hide that this one failed
        raise


def try_where_set(run: Run) -> Outcome:
    """Tries the champion where the settings let stages work: in this process, which needs no Ray for it, or as a job of a cluster."""
    from components.jobs.check_champion import KIND, NAME, nothing_to_try, try_champion
    from components.registry import models

    where = run.config.cluster.stages_in
    if where == "process":
        here = run.config.model_copy(update={"encode": run.config.encode.model_copy(update={"num_actors": 0})})
        return try_champion(dataclasses.replace(run, config=here))
    champion = models.find(run.project, KIND, models.CHAMPION)
    return nothing_to_try(run) if champion is None else work_as_job(run, NAME, champion.weights, OPENED[where])


def try_no_more() -> None:
    """Takes from this flow run the tries that its deployment would still give it."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(this_flow_run())
        client.update_flow_run(flow_run.id, empirical_policy=flow_run.empirical_policy.model_copy(update={"retries": 0}))
