"""Deployments on a real Prefect server with a real serving process: registered, started by events, killed, and started again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest
import yaml

from components.media.write import write_video
from components.store.project import Project
from components.store.tables import clips
from tests.flows.command import REPOSITORY, environment, kinora
from tests.flows.serving import ask_prefect, free_port, serving
from tests.flows.waiting import HAND

pytestmark = pytest.mark.slow

PATIENT = {
    "name": "patient",
    "flow": "caption",
    "cron": "30 4 * * mon",
    "timezone": "Europe/Berlin",
    "profile": "test",
    "tags": ["nightly"],
}
PATIENT |= {"retries": 1, "retry_delay_seconds": 1, "overrides": ["caption.max_words=40"]}
FOOTAGE = {"name": "new-footage", "flow": "ingest", "on": "footage.arrived", "source": "footage", "profile": "test"}
PROMOTED = {"name": "promoted", "flow": "check_champion", "on": "model.promoted", "profile": "test", "collision_strategy": "CANCEL_NEW"}
SECRET = "hook-secret"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Place:
    """A folder with a settings file, and the server beside it."""

    folder: Path
    api: str
    told: list[str]  # what was posted to the webhook

    @property
    def variables(self) -> dict[str, str]:
        home = {"PREFECT_HOME": str(self.folder / "prefect"), HAND: str(self.hand)}
        home["KINORA_WEBHOOK_URL_FILE"] = str(self.folder / "webhook")
        return {"PREFECT_API_URL": self.api, "KINORA_CONFIG": str(self.folder / "mine.yaml"), **home}

    @property
    def hand(self) -> Path:
        return self.folder / "hand"

    def write(self, *deployments: dict[str, Any]) -> None:
        document = yaml.safe_load((REPOSITORY / "pipelines.yaml").read_text())
        document["defaults"]["serving"]["watch_every_seconds"] = 2
        (self.folder / "mine.yaml").write_text(yaml.safe_dump(document | {"deployments": list(deployments)}))

    def deploy(self, **extra: str) -> dict[str, Any]:
        done = kinora(self.folder, "deploy", "--json", **self.variables, **extra)
        assert done.returncode == 0, done.stderr[-3000:]
        said: dict[str, Any] = json.loads(done.stdout)
        return said | {"changes": {entry["name"]: entry["change"] for entry in said["deployments"]}, "stderr": done.stderr}

    def post(self, path: str, body: dict[str, Any] | list[Any]) -> Any:
        answer = ask_prefect(self.api, path, body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        (found,) = self.post("/deployments/filter", {"deployments": {"name": {"any_": [name.partition("/")[2]]}}})
        return dict(found)

    def hold(self, name: str) -> None:
        """Puts the waiting flow in the place of a deployment's own."""
        path = f"/deployments/{self.deployment(name)['id']}"
        ask_prefect(self.api, path, {"entrypoint": "tests.flows.waiting.waiting"}, "PATCH").raise_for_status()

    def start(self, name: str, **parameters: Any) -> str:
        body = {"parameters": parameters, "idempotency_key": str(uuid4())}
        made = self.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", body)
        return str(made["id"])

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", {"deployments": {"name": {"any_": [name]}}})
        return [run for run in found if not run["auto_scheduled"]]

    def run(self, run_id: str) -> dict[str, Any]:
        (found,) = self.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return dict(found)

    def state(self, run_id: str, *wanted: str, within: float = 120) -> dict[str, Any]:
        """Waits until a run is in one of some states."""
        return until(
            lambda: found if (found := self.run(run_id))["state"]["type"] in wanted else None, within, lambda: self.run(run_id)["state"]
        )

    def held_by(self, run_id: str) -> int:
        """Waits until the waiting flow works on a run, and answers its process."""
        return until(lambda: self.ledger().get(run_id), 120, self.ledger)

    def ledger(self) -> dict[str, int]:
        path = self.hand / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return {run: int(pid) for run, pid in (line.split() for line in lines)}


def until(look: Callable[[], Any], within: float, tell: Callable[[], Any]) -> Any:
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, tell()
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port, told = tmp_path_factory.mktemp("deploy"), free_port(), list[str]()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    found = Place(folder, f"http://127.0.0.1:{port}/api", told)
    found.hand.mkdir()
    (folder / "webhook").write_text(f"http://127.0.0.1:{hook.server_port}/{SECRET}\n")
    (folder / "webhook").chmod(0o600)
    server = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    quiet = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with serving(server, folder, quiet, f"{found.api}/health"):
        yield found
    hook.shutdown()


@pytest.fixture(scope="module")
def registered(place: Place) -> dict[str, Any]:
    """All three deployments, the flow of the first replaced by one that the tests hold."""
    place.write(PATIENT, FOOTAGE, PROMOTED, PATIENT | {"name": "old"})
    place.deploy()
    place.write(PATIENT, FOOTAGE, PROMOTED)
    changed = place.deploy()
    place.hold("caption/patient")
    return changed


def start_serving(place: Place) -> "subprocess.Popen[bytes]":
    log = (place.folder / "serving.log").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "flows.serving"],
        cwd=place.folder,
        env=environment(**place.variables),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.fixture
def worker(place: Place, registered: dict[str, Any]) -> Iterator["subprocess.Popen[bytes]"]:
    """A serving process, with all that it started, for one test."""
    process = start_serving(place)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_deploying_twice_changes_nothing_and_what_is_not_listed_goes(place: Place, registered: dict[str, Any]) -> None:
    assert registered["changes"] == {"patient": "unchanged", "new-footage": "unchanged", "promoted": "unchanged", "old": "removed"}
    assert set(registered["automations"].values()) == {"unchanged"}
    place.write(PATIENT, FOOTAGE, PROMOTED | {"tags": ["watch"]})
    (trigger,) = (found for found in place.post("/automations/filter", {}) if found["name"] == "kinora: new-footage on footage.arrived")
    ask_prefect(place.api, f"/automations/{trigger['id']}", {"enabled": False}, "PATCH").raise_for_status()
    drifted = kinora(place.folder, "deploy", **place.variables)  # the tests put a flow of their own into `patient`
    assert "nothing serves the work pool `kinora` yet" in drifted.stderr
    changes = dict(line.split()[:2] for line in drifted.stdout.splitlines()[1:])
    assert changes == {"patient": "updated", "new-footage": "updated", "promoted": "updated"}
    place.hold("caption/patient")
    listed = place.post("/automations/filter", {})
    assert all(found["enabled"] for found in listed)
    ours = ["kinora: a failure is told", "kinora: a silent run is crashed"]
    assert sorted(found["name"] for found in listed) == [
        *ours,
        "kinora: new-footage on footage.arrived",
        "kinora: promoted on model.promoted",
    ]
    for text in (drifted.stdout, drifted.stderr, json.dumps(registered), json.dumps(listed)):
        assert SECRET not in text


def test_the_server_holds_what_the_file_says(place: Place, registered: dict[str, Any]) -> None:
    patient, footage = place.deployment("caption/patient"), place.deployment("ingest/new-footage")
    (schedule,) = patient["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"], schedule["active"]) == ("30 4 * * mon", "Europe/Berlin", True)
    assert set(patient["tags"]) == {"kinora", "nightly"}
    assert patient["parameters"] == {"profile": "test", "overrides": ["caption.max_words=40"]}
    assert (patient["global_concurrency_limit"]["limit"], patient["concurrency_options"]["collision_strategy"]) == (1, "ENQUEUE")
    assert place.deployment("check_champion/promoted")["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert patient["enforce_parameter_schema"] is True
    assert footage["schedules"] == []
    assert footage["parameters"]["source"] == str(place.folder / "footage")
    said = {name: about["description"] for name, about in footage["parameter_openapi_schema"]["properties"].items()}
    assert set(said) == {"project", "source", "manifest", "profile", "overrides"}
    assert all(said.values())
    triggers = {found["name"]: found for found in place.post("/automations/filter", {})}
    trigger = triggers["kinora: new-footage on footage.arrived"]
    assert trigger["trigger"]["expect"] == ["kinora.footage.arrived"]
    assert trigger["trigger"]["match"] == {"prefect.resource.id": "kinora.project.footage"}
    assert trigger["actions"][0]["deployment_id"] == footage["id"]


@pytest.mark.parametrize(
    ("parameters", "word"),
    [({"profile": "latop"}, "profile"), ({"overrides": "x"}, "overrides"), ({"overrides": ["dit"]}, "overrides"), ({"nope": 1}, "nope")],
)
def test_a_wrong_parameter_is_refused_before_any_run(
    place: Place, registered: dict[str, Any], parameters: dict[str, Any], word: str
) -> None:
    identity = place.deployment("caption/patient")["id"]
    answer = ask_prefect(place.api, f"/deployments/{identity}/create_flow_run", {"parameters": parameters})
    assert answer.status_code == 409
    assert word in answer.text


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = kinora(tmp_path, "deploy", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error == "error: no Prefect server at http://127.0.0.1:9/api"
    assert hint.startswith("hint: `kinora up` starts one")


def test_events_run_what_is_deployed_on_them_and_footage_is_ingested_once(place: Place, worker: "subprocess.Popen[bytes]") -> None:
    resource = {"prefect.resource.id": "kinora.project.demo"}
    payload = {"project": "demo", "model": "demo-text-to-video", "version": 1}
    event = {"event": "kinora.model.promoted", "resource": resource, "payload": payload, "occurred": "2026-01-01T00:00:00Z"}
    event |= {"id": "00000000-0000-4000-8000-000000000001", "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    (place.folder / "footage").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (24, 48, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    write_video(place.folder / "footage" / "film.mp4", np.stack([np.roll(noise, 3 * step, 1) for step in range(40)]), 8)
    place.post("/events", [event])
    (checking,) = until(lambda: place.runs_of("promoted"), 60, lambda: "no run after a promoted model")
    assert checking["parameters"]["project"] == "demo"
    (ingesting,) = until(lambda: place.runs_of("new-footage"), 60, lambda: "no run after new footage")
    assert "no champion yet" in place.state(checking["id"], *ENDED)["state"]["message"]
    done = place.state(ingesting["id"], *ENDED, within=240)
    assert done["state"]["type"] == "COMPLETED", (place.folder / "serving.log").read_text()[-3000:]
    project = Project(place.folder / "runs", "footage")
    assert clips(project).count() > 0
    assert {f"seconds_{stage}" for stage in ("ingest", "curate")} <= set(json.loads((project.folder / "summary.json").read_text()))
    assert "<html" in (project.folder / "report.html").read_text()
    assert len(place.runs_of("new-footage")) == len(place.runs_of("promoted")) == 1


def test_a_run_that_fails_is_tried_again_as_often_as_the_file_says(place: Place, worker: "subprocess.Popen[bytes]") -> None:
    (place.hand / "fail").touch()
    try:
        done = place.state(place.start("caption/patient"), *ENDED)
    finally:
        (place.hand / "fail").unlink()
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 2)
    (place.hand / "refuse").touch()
    try:
        done = place.state(place.start("caption/patient"), *ENDED)
    finally:
        (place.hand / "refuse").unlink()
    assert (done["state"]["type"], done["run_count"]) == ("FAILED", 1), "a flow that says so is not tried again"


def test_a_cancelled_run_ends_and_a_stopped_serving_process_leaves_none_running(place: Place, worker: "subprocess.Popen[bytes]") -> None:
    (place.hand / "wait").touch()
    try:
        run = place.start("caption/patient")
        pid = place.held_by(run)
        place.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        place.state(run, "CANCELLED", within=60)
        until(lambda: not psutil.pid_exists(pid), 60, lambda: "the process of a cancelled run lives")
        run = place.start("caption/patient")
        pid = place.held_by(run)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
        assert place.run(run)["state"]["type"] == "CRASHED"
        assert not psutil.pid_exists(pid)
    finally:
        (place.hand / "wait").unlink()


def test_a_run_killed_with_its_serving_process_is_marked_and_the_one_that_waits_starts(
    place: Place, worker: "subprocess.Popen[bytes]"
) -> None:
    (place.hand / "wait").touch()
    try:
        first = place.start("caption/patient")
        place.held_by(first)
        second = place.start("caption/patient")
        until(lambda: place.run(second)["state"]["name"] == "AwaitingConcurrencySlot", 60, lambda: place.run(second)["state"])
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        crashed = place.state(first, "CRASHED", within=120)
        assert "silent" in crashed["state"]["message"]
        told = until(lambda: next((text for text in place.told if first in text), None), 30, lambda: place.told)
        assert json.loads(told)["state"] == "Crashed"
    finally:
        (place.hand / "wait").unlink()
    again = start_serving(place)
    try:
        assert place.state(second, *ENDED, within=180)["state"]["type"] == "COMPLETED"
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.wait()
