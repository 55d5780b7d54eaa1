import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.registry.tracking import RUN_KEY, Tracker, client_of, flattened
from components.store.project import Project


def only_run(project: Project):
    client = client_of(project)
    experiment = client.get_experiment_by_name(project.name)
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def steps(project: Project, name: str) -> list[int]:
    client, run = only_run(project)
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def test_a_run_keeps_settings_metrics_files_and_tags(project: Project, tmp_path: Path):
    (tmp_path / "sheet.png").write_bytes(b"png")
    run = Tracker(project).run("train_vae", "abc")
    run.log_params({"vae": {"steps": 10, "size": {"hidden": 4}}, "root": "runs"})
    run.log_metrics([(1, {"loss": 1.0}), (2, {"loss": 0.5, "psnr": 20.0})])
    run.log_artifact(tmp_path / "sheet.png", "sheets")
    run.tag({"kinora.table.clips.version": 7})
    run.close()
    client, found = only_run(project)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"vae.steps": "10", "vae.size.hidden": "4", "root": "runs"}
    assert found.data.metrics == {"loss": 0.5, "psnr": 20.0}
    assert found.data.tags["kinora.table.clips.version"] == "7"
    assert found.data.tags[RUN_KEY] == "train_vae:abc"
    assert [entry.path for entry in client.list_artifacts(found.info.run_id, "sheets")] == ["sheets/sheet.png"]
    assert found.info.artifact_uri.startswith(project.artifacts.as_uri())
    assert list((project.folder / "tracking").iterdir()) == []


def test_a_resumed_stage_goes_on_in_its_run_and_no_step_is_kept_twice(project: Project):
    first = Tracker(project).run("train_vae", "abc")
    first.log_params({"vae": {"steps": 10}})
    first.log_metrics([(step, {"loss": 1.0 / step}) for step in (2, 4, 6)])
    first.close(None)  # as a killed process leaves it: not ended
    second = Tracker(project).run("train_vae", "abc")
    second.log_params({"vae": {"steps": 10}})
    second.log_metrics([(step, {"loss": 1.0 / step}) for step in (2, 4, 6)])  # the driver tells old lines again
    second.log_metrics([(8, {"loss": 0.125})])
    second.close()
    assert steps(project, "loss") == [2, 4, 6, 8]


def test_a_file_for_a_run_that_has_ended_leaves_it_ended(project: Project, tmp_path: Path):
    (tmp_path / "report.json").write_text("{}")
    Tracker(project).run("train_vae", "abc").close()
    late = Tracker(project).run("train_vae", "abc")
    late.log_artifact(tmp_path / "report.json", "evaluation")
    late.close(None)
    client, run = only_run(project)
    assert run.info.status == "FINISHED"
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "evaluation")] == ["evaluation/report.json"]


def test_other_keys_and_stages_are_other_runs(project: Project):
    for stage, key in (("train_vae", "a"), ("train_vae", "b"), ("train_dit", "a")):
        Tracker(project).run(stage, key).close()
    client = client_of(project)
    experiment = client.get_experiment_by_name(project.name)
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_a_tracker_that_is_away_stops_nothing_and_gets_everything_later(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "report.json").write_text("{}")
    run = Tracker(project).run("evaluate", "k")
    with caplog.at_level(logging.WARNING, logger="kinora"):
        for step in range(1, 4):
            run.log_metrics([(step, {"score": step / 10})])
        run.log_artifact(tmp_path / "report.json")
        run.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "127.0.0.1:9" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Tracker(project).send_left_over()
    assert steps(project, "score") == [1, 2, 3]
    assert only_run(project)[1].info.status == "FINISHED"
    assert list((project.folder / "tracking").iterdir()) == []


def test_records_of_a_killed_process_are_sent_by_the_next(project: Project):
    journal = project.folder / "tracking" / "train_dit.k.jsonl"
    journal.parent.mkdir(parents=True)
    lines = [{"metrics": [[1, {"loss": 2.0}]], "at": 1}, {"metrics": [[2, {"loss": 1.0}]], "at": 2}]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"metrics": [[3, {"lo')
    run = Tracker(project).run("train_dit", "k")
    run.log_metrics([(3, {"loss": 0.5})])
    run.close()
    assert steps(project, "loss") == [1, 2, 3]


def test_settings_are_flattened_to_one_level():
    assert flattened({"a": {"b": {"c": 1}, "d": []}, "e": None, "f": {}}) == {"a.b.c": 1, "a.d": [], "e": None, "f": {}}


def test_the_home_and_the_working_folder_stay_untouched(tmp_path: Path, repository: Path):
    """MLflow would keep a database where it is started, and telemetry in the home."""
    code = """
import sys
from pathlib import Path
from components.registry.tracking import Tracker
from components.store.project import Project

run = Tracker(Project(Path(sys.argv[1]), "p")).run("train_vae", "k")
run.log_metrics([(1, {"loss": 1.0})])
run.close()
"""
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(repository)}
    environment.pop("MLFLOW_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", code, str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert list((tmp_path / "home").iterdir()) == list((tmp_path / "work").iterdir()) == []
