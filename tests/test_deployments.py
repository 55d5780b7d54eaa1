"""Deployments of the settings file: those of the repository load, and a mistake answers in one sentence that names the deployment."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import SettingsError, load_config
from components.deployments import ALIASES, FLOWS, cron_fault, load_deployments, settings_of, with_profile
from components.operations.plan import FLOW_STAGES

GOOD = {"name": "nightly", "flow": "ingest", "cron": "0 2 * * *"}
SCHEDULES = (
    "* * * * *",
    "*/2 * * * *",
    "0 2 * * *",
    "0 3 * * 0",
    "0 3 * * sun",
    "0 3 * * 7",
    "15,45 8-18/2 * * mon-fri",
    "0 0 29 2 *",
    "0 0 1 JAN,jul *",
    "5/20 * * * *",
    *ALIASES,
)
NO_SCHEDULES = ("", "soon", "0 2 * *", "60 2 * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "0 2 * * fryday", "*/0 * * * *")


def settings_file(folder: Path, repository: Path, *deployments: Any) -> str:
    """The repository's settings with other deployments."""
    document = yaml.safe_load((repository / "pipelines.yaml").read_text())
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document | {"deployments": list(deployments)}))
    return str(path)


def test_the_deployments_of_the_repository_load(repository: Path) -> None:
    deployments = load_deployments(str(repository / "pipelines.yaml"))
    assert {"nightly-ingest", "nightly-caption", "weekly-model", "new-footage", "promoted-model"} <= {d.name for d in deployments}
    assert {deployment.on for deployment in deployments} == {None, "footage.arrived", "model.promoted"}
    assert all(deployment.concurrency_limit == 1 for deployment in deployments)
    assert all(deployment.retries for deployment in deployments if "housekeeping" not in deployment.tags)
    assert {deployment.name for deployment in deployments if deployment.collision_strategy != "ENQUEUE"} == {"reap"}


def test_deployments_take_another_profile_and_keep_their_overrides(repository: Path, tmp_path: Path) -> None:
    file = settings_file(tmp_path, repository, GOOD | {"profile": "laptop", "overrides": ["dit.steps=7"]})
    [changed] = [with_profile(deployment, "servers", file) for deployment in load_deployments(file)]
    found = settings_of(changed, file)
    assert (found.cluster.stages_in, found.cluster.storage, found.dit.steps) == ("job", "s3://kinora", 7)
    with pytest.raises(SettingsError, match="did you mean `servers`"):
        with_profile(changed, "server", file)


def test_every_flow_that_a_deployment_may_name_is_there(repository: Path) -> None:
    assert set(FLOW_STAGES) <= set(FLOWS)
    assert [name for name in FLOWS if not (repository / "flows" / f"{name}.py").is_file()] == []


def test_an_event_is_written_without_quotes(tmp_path: Path, repository: Path) -> None:
    path = settings_file(tmp_path, repository)
    text = Path(path).read_text().replace("deployments: []", "")
    Path(path).write_text(text + "\ndeployments:\n- {name: new, flow: ingest, on: footage.arrived, source: /films/new ones}\n")
    (deployment,) = load_deployments(path)
    assert (deployment.on, deployment.project_name) == ("footage.arrived", "new-ones")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cron": "0 2 * *"}, "deployment `nightly`: `cron` = '0 2 * *': that is no cron schedule (it has 4 fields"),
        ({"cron": "0 25 * * *"}, '(hour `25` is not of 0 to 23); hint: `cron: "0 2 * * *"` is every night at two'),
        ({"cron": "0 0 31 2 *"}, "no such day comes"),
        ({"cron": "@often"}, "the names are @hourly"),
        ({"cron": 5}, "`cron` = 5"),
        ({"flow": "ingset"}, "`flow` = 'ingset': that is not a flow; did you mean `ingest`?"),
        ({"flow": "zzz"}, "the flows are footage_to_model, ingest"),
        ({"profile": "latop"}, "deployment `nightly`: `latop` is not a profile; did you mean `laptop`?"),
        ({"overrides": ["dit.stps=3"]}, "deployment `nightly`: `dit.stps` is not a setting; did you mean `dit.steps`?"),
        ({"overrides": ["dit.steps"]}, "is not `key=value`"),
        ({"cron": None}, "deployment `nightly`: nothing starts it; hint: "),
        ({"cron": None, "on": "footage.arrived"}, "needs a folder to look at; hint: add `source: DIR`"),
        ({"on": "footage.came"}, "`on` = 'footage.came'"),
        ({"timezone": "Europe/Berln"}, "`timezone` = 'Europe/Berln': that is not a time zone; hint: did you mean `Europe/Berlin`?"),
        ({"name": "Nightly ingest"}, "a name is of small letters, digits and dashes"),
        ({"corn": "0 2 * * *"}, "`corn` is not a setting; did you mean `cron`?"),
        ({"concurrency_limit": 0}, "`concurrency_limit` = 0"),
        ({"collision_strategy": "WAIT"}, "`collision_strategy` = 'WAIT'"),
        ({"retries": -1}, "`retries` = -1"),
        ({"project": "!!!"}, "`!!!` gives no project name"),
    ],
)
def test_a_mistake_answers_in_one_sentence(tmp_path: Path, repository: Path, change: dict[str, Any], sentence: str) -> None:
    path = settings_file(tmp_path, repository, GOOD | change)
    with pytest.raises(SettingsError) as raised:
        load_deployments(path)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_deployment_at_all_is_named_by_its_place(tmp_path: Path, repository: Path) -> None:
    for entries, sentence in (
        ([GOOD, "nightly"], "deployment 2 is not a mapping"),
        ([{"flow": "ingest"}], "deployment 1: `name` is missing"),
        ([GOOD, GOOD], "two deployments are named `nightly`"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            load_deployments(settings_file(tmp_path, repository, *entries))


def test_a_deployment_is_run_with_settings_that_resolve(tmp_path: Path, repository: Path) -> None:
    path = settings_file(tmp_path, repository, GOOD | {"profile": "test", "overrides": ["dit.steps=7"]})
    (deployment,) = load_deployments(path)
    assert load_config(deployment.profile, deployment.overrides).dit.steps == 7


def test_a_schedule_that_passes_is_one_that_prefect_understands() -> None:
    from prefect._vendor.croniter import croniter
    from prefect.client.schemas.schedules import CronSchedule

    assert {cron: fault for cron in SCHEDULES if (fault := cron_fault(cron))} == {}
    assert [cron for cron in NO_SCHEDULES if cron_fault(cron) is None] == []
    for cron in SCHEDULES:
        assert CronSchedule(cron=cron).cron == cron
        assert croniter(cron, datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime).year <= 2028
    for cron in NO_SCHEDULES:
        with pytest.raises(ValueError):
            CronSchedule(cron=cron)
