"""What watches over runs at night, as Prefect is told of it; a real server marks and tells in `test_deployments.py`."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.schemas.responses import DeploymentResponse

from components.config import SettingsError
from components.deployments import load_deployments
from flows import deployments
from flows.automations import FAILED, SILENT, silent_run, told_failure, webhook_address
from flows.triggers import trigger
from tests.test_deployments import GOOD, settings_file


def test_a_run_is_dead_after_three_beats_and_only_if_it_is_ours_and_has_not_ended() -> None:
    trigger = silent_run().trigger
    assert trigger.within == timedelta(seconds=90)
    assert trigger.after == {"prefect.flow-run.heartbeat"}
    assert {"prefect.flow-run.heartbeat", "prefect.flow-run.Completed", "prefect.flow-run.Crashed"} <= trigger.expect
    assert trigger.match_related.model_dump() == {"prefect.resource.id": "prefect.tag.kinora", "prefect.resource.role": "tag"}


def test_the_address_of_a_webhook_comes_from_the_environment_or_a_file_and_is_never_repeated(tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text("https://hooks.example/secret\n")
    file.chmod(0o600)
    assert webhook_address({}) is None
    assert webhook_address({"KINORA_WEBHOOK_URL": "https://hooks.example/other"}) == "https://hooks.example/other"
    assert webhook_address({"KINORA_WEBHOOK_URL_FILE": str(file)}) == "https://hooks.example/secret"
    file.write_text("\n")
    assert webhook_address({"KINORA_WEBHOOK_URL_FILE": str(file)}) is None
    file.chmod(0o644)
    with pytest.raises(ValueError, match="others on this machine may read; hint: `chmod 600 ") as raised:
        webhook_address({"KINORA_WEBHOOK_URL_FILE": str(file)})
    assert "hooks.example" not in str(raised.value)
    with pytest.raises(ValueError, match="which cannot be read"):
        webhook_address({"KINORA_WEBHOOK_URL_FILE": str(tmp_path / "gone")})
    with pytest.raises(ValueError, match="is not an address") as raised:
        webhook_address({"KINORA_WEBHOOK_URL": "hooks.example/secret"})
    assert "secret" not in str(raised.value)


def test_the_automations_of_infra_are_those_of_the_code(repository: Path) -> None:
    document = yaml.safe_load((repository / "infra" / "prefect" / "automations.yaml").read_text())
    listed = {entry["name"]: entry for entry in document["automations"]}
    ours = {SILENT: silent_run(), FAILED: told_failure(UUID(int=0))}
    assert set(listed) == set(ours)
    for name in ours:
        assert set(listed[name]["trigger"]["expect"]) == set(ours[name].trigger.expect)
        assert listed[name]["trigger"]["within"] == ours[name].trigger.within.total_seconds()


def test_every_deployment_of_the_repository_becomes_one_of_prefects(repository: Path, tmp_path: Path) -> None:
    file = repository / "pipelines.yaml"
    listed = load_deployments(str(file))
    assert listed
    for deployment in listed:
        told = deployments.payload(deployment, file, tmp_path, "process")
        assert {"kinora", *deployment.tags} <= set(told["tags"])
        assert all(about["description"] for about in told["parameter_openapi_schema"]["properties"].values())
        assert told["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        elsewhere = deployments.payload(deployment, file, tmp_path, "kubernetes")["job_variables"]
        assert set(elsewhere) == {"env"}, "a path or a command of this machine means nothing there"
        assert (trigger(deployment) is None) == (deployment.on is None)
        assert bool(deployments.schedules(deployment)) == (deployments.next_run(deployment) is not None) == (deployment.cron is not None)


def test_a_parameter_that_the_flow_does_not_take_is_named(tmp_path: Path, repository: Path) -> None:
    file = settings_file(tmp_path, repository, GOOD | {"flow": "check_champion", "source": "films"})
    with pytest.raises(SettingsError, match="deployment `nightly`: flow `check_champion` takes no `source`; hint: leave it out"):
        deployments.check(load_deployments(file), Path(file), tmp_path)


def test_a_champion_is_checked_in_the_project_that_promoted_it(tmp_path: Path, repository: Path) -> None:
    any_project = GOOD | {"flow": "check_champion", "on": "model.promoted", "cron": None}
    file = settings_file(tmp_path, repository, any_project, any_project | {"name": "one", "project": "films"})
    of_any, of_one = (trigger(deployment) for deployment in load_deployments(file))
    assert of_any is not None
    assert of_one is not None
    assert of_any.match.model_dump() == {"prefect.resource.id": "kinora.project.*"}
    assert of_any.parameters == {"project": "{{ event.payload.project }}"}
    assert of_one.match.model_dump() == {"prefect.resource.id": "kinora.project.films"}
    assert of_one.parameters is None


@pytest.mark.parametrize(
    "drift",
    [
        {"concurrency_options": {"collision_strategy": "CANCEL_NEW"}},
        {"global_concurrency_limit": None},
        {"job_variables": {"env": {}}},
        {"description": "what a person typed"},
        {"enforce_parameter_schema": False},
        {"parameters": {}},
        {"paused": True},
        {"schedules": []},
        {"tags": ["kinora"]},
    ],
)
def test_what_somebody_changed_in_the_dashboard_is_seen(tmp_path: Path, repository: Path, drift: dict[str, Any]) -> None:
    file = settings_file(tmp_path, repository, GOOD | {"tags": ["nightly"], "profile": "test"})
    (deployment,) = load_deployments(file)
    told = deployments.payload(deployment, Path(file), tmp_path, "process")
    there = {name: value for name, value in told.items() if name != "concurrency_limit"} | {
        "id": UUID(int=1),
        "flow_id": UUID(int=2),
        "enforce_parameter_schema": True,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
        "global_concurrency_limit": {"id": UUID(int=3), "name": "one", "limit": 1, "active_slots": 0, "slot_decay_per_second": 0.0},
        "schedules": [{"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}, "active": True}],
    }
    assert deployments.is_as_told(DeploymentResponse.model_validate(there), deployment, told)
    assert not deployments.is_as_told(DeploymentResponse.model_validate(there | drift), deployment, told)
