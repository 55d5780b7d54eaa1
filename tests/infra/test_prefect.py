"""infra/prefect: the automations are those that `kinora deploy` makes, and the work pool's template is one of Prefect's process workers."""

import json
from pathlib import Path
from uuid import UUID

import yaml


def test_the_automations_are_those_of_kinora_deploy(repository: Path) -> None:
    from prefect.automations import AutomationCore

    from flows.automations import silent_run, told_failure
    from flows.triggers import essence

    listed = yaml.safe_load((repository / "infra" / "prefect" / "automations.yaml").read_text())["automations"]
    for given, wanted in zip(listed, (silent_run(), told_failure(UUID(int=0))), strict=True):
        assert essence(AutomationCore.model_validate(given)) == essence(wanted)


def test_the_work_pool_has_the_variables_of_a_process_and_the_heartbeat_of_the_automation(repository: Path) -> None:
    from prefect.workers.process import ProcessWorker

    from flows.deployments import HEARTBEAT_SECONDS

    ours = json.loads((repository / "infra" / "prefect" / "work-pool.json").read_text())
    prefects = ProcessWorker.get_default_base_job_template()
    assert ours["job_configuration"] == prefects["job_configuration"]
    assert set(ours["variables"]["properties"]) == set(prefects["variables"]["properties"])
    assert ours["variables"]["properties"]["env"]["default"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)
