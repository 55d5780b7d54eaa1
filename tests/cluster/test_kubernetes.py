"""A RayJob made, followed and deleted by `kubectl`; a small one stands in for a cluster, which no test machine has."""

import json
import os
import sys
from pathlib import Path

import pytest

from components.cluster import kubernetes
from components.cluster.following import Ended
from components.cluster.session import RayUnavailableError

KUBECTL = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
state = Path({{folder!r}})
assert sys.argv[1:3] == ["--namespace", "kinora"], sys.argv
verb, rest = sys.argv[3], sys.argv[4:]
if (state / "down").exists():
    sys.exit("The connection to the server was refused - did you specify the right host or port?")
match verb:
    case "create":
        job = json.load(sys.stdin)
        place = state / (job["metadata"]["name"] + ".json")
        if place.exists():
            sys.exit("Error from server (AlreadyExists): it is there")
        place.write_text(json.dumps(job))
    case "get":
        place = state / (rest[1] + ".json")
        if not place.exists():
            sys.exit("Error from server (NotFound): it is not there")
        print(place.read_text())
    case "logs":
        place = state / (rest[0].removeprefix("job/") + ".log")
        print(place.read_text() if place.exists() else "", end="")
    case "delete":
        (state / (rest[1] + ".json")).unlink(missing_ok=True)
"""
TEMPLATE = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {generateName: kinora-run-, labels: {app: kinora}}
spec: {entrypoint: kinora run, shutdownAfterJobFinishes: true}
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what the `kubectl` on the PATH made."""
    program, folder = tmp_path / "bin" / "kubectl", tmp_path / "state"
    program.parent.mkdir()
    folder.mkdir()
    program.write_text(KUBECTL.replace("{folder!r}", repr(str(folder))))
    program.chmod(0o755)
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def submit(state: Path) -> kubernetes.Job:
    name = kubernetes.job_name("kinora-demo-train_dit-0123456789abcdef", "train_dit")
    return kubernetes.submit(name, "components.jobs", "train_dit", '{"a": "b\'c"}', {"stage": "train_dit"}, state.parent / "rayjob.yaml")


def told(state: Path, job: str, log: str, **status: str) -> None:
    place = state / f"{job}.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"status": status}))
    (state / f"{job}.log").write_text(log)


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

    assert kubernetes.follow(job, lines.append, watch) == Ended("SUCCEEDED", "")
    assert lines == ["one", "two", "three"]


def test_a_rayjob_that_somebody_deleted_was_stopped(state: Path) -> None:
    job = submit(state)
    kubernetes.stop(job)
    assert kubernetes.follow(job, print, lambda: None).status == "STOPPED"


def test_kubernetes_that_is_away_or_refuses_is_one_sentence(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "down").touch()
    with pytest.raises(RayUnavailableError, match=r"does not answer .*; hint: "):
        submit(state)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(kubernetes.KubernetesRefusedError, match="no `kubectl` on the PATH; hint: "):
        submit(state)
