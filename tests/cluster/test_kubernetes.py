"""A RayJob made, followed and deleted by `kubectl`; a small one stands in for a cluster, which no test machine has."""

import json
import os
from pathlib import Path

import pytest

from components.cluster import kubernetes
from components.cluster.following import Ended
from components.cluster.jobs_api import Listed
from components.cluster.session import RayUnavailableError
from tests.cluster.kubectl import told, write_kubectl

TEMPLATE = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {generateName: kinora-run-, labels: {app: kinora}}
spec: {entrypoint: kinora run, shutdownAfterJobFinishes: true}
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what the `kubectl` on the PATH made."""
    folder = write_kubectl(tmp_path)
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def submit(state: Path) -> kubernetes.Job:
    name = kubernetes.job_name("kinora-demo-train_dit-0123456789abcdef", "train_dit")
    return kubernetes.submit(name, "components.jobs", "train_dit", '{"a": "b\'c"}', {"stage": "train_dit"}, state.parent / "rayjob.yaml")


def test_a_rayjob_is_the_template_with_a_name_and_a_command_no_shell_reads_otherwise(state: Path) -> None:
    job = submit(state)
    made = json.loads((state / f"{job.id}.json").read_text())
    assert made["metadata"] == {"name": job.id, "labels": {"app": "kinora"}, "annotations": {"kinora/stage": "train_dit"}}
    assert made["spec"]["shutdownAfterJobFinishes"]
    assert made["spec"]["entrypoint"].startswith("python -m components.jobs train_dit ")
    assert not set(made["spec"]["entrypoint"]) & set("'\"{}$\\;&|<>")
    assert len(job.id) <= 47


def test_a_rayjob_that_runs_is_joined_and_one_that_is_over_is_tried_again(state: Path) -> None:
    first = submit(state)
    assert submit(state) == kubernetes.Job(first.id, attached=True)
    told(state, first.id, "", jobDeploymentStatus="Failed", jobStatus="FAILED")
    second = submit(state)
    assert (second.attached, second.id) == (False, first.id[:-1] + "2")


def test_a_rayjob_is_followed_line_by_line_over_a_moment_without_kubernetes_until_its_end(state: Path) -> None:
    job, lines, looks = submit(state), [], []

    def watch() -> None:
        looks.append(None)
        match len(looks):
            case 1:
                told(state, job.id, "one\ntw", jobDeploymentStatus="Running")
            case 2:
                (state / "down").touch()
            case 3:
                (state / "down").unlink()
                told(state, job.id, "one\ntwo\nthree\n", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
                (state / "no logs").write_text("once")  # at its end of all times

    assert kubernetes.follow(job, lines.append, watch) == Ended("SUCCEEDED", "")
    assert lines == ["one", "two", "three"]


def test_a_rayjob_that_is_over_and_never_had_a_log_ends_without_one(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "LAST_LOG_TRIES", 1)
    job = submit(state)
    told(state, job.id, "", jobDeploymentStatus="Failed", message="its image could not be pulled")
    (state / "no logs").touch()
    assert kubernetes.follow(job, print, lambda: None) == Ended("FAILED", "its image could not be pulled")


def test_a_rayjob_that_somebody_deleted_was_stopped(state: Path) -> None:
    job = submit(state)
    assert kubernetes.stop(job.id)
    assert kubernetes.stop(job.id), "it is gone, which is what was asked for"
    assert kubernetes.follow(job, print, lambda: None).status == "STOPPED"


def test_a_delete_that_is_refused_or_not_heard_is_no_stop(state: Path) -> None:
    job = submit(state)
    for fault in ("no deletes", "down"):
        (state / fault).touch()
        assert not kubernetes.stop(job.id)
        (state / fault).unlink()
    assert kubernetes.jobs_of_ours()[0].running


def test_rayjobs_of_ours_are_listed_with_what_their_flow_wrote_on_them(state: Path) -> None:
    first = submit(state)
    told(state, first.id, "", jobDeploymentStatus="ValidationFailed")
    second = submit(state)
    (state / "foreign.json").write_text(json.dumps({"metadata": {"name": "foreign", "annotations": {"other/stage": "x"}}}))
    assert kubernetes.jobs_of_ours() == [
        Listed(first.id, running=False, metadata={"stage": "train_dit"}),
        Listed(second.id, running=True, metadata={"stage": "train_dit"}),
    ]
    assert kubernetes.follow(first, print, lambda: None).status == "FAILED"
    (state / "down").touch()
    with pytest.raises(RayUnavailableError, match="hint: "):
        kubernetes.jobs_of_ours()


def test_kubernetes_that_is_away_or_refuses_is_one_sentence(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "down").touch()
    with pytest.raises(RayUnavailableError, match=r"does not answer .*; hint: "):
        submit(state)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(kubernetes.KubernetesRefusedError, match="no `kubectl` on the PATH; hint: "):
        submit(state)
