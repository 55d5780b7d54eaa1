"""Stages as jobs of a real Ray cluster with a token, driven by flows of a real Prefect server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from components.cluster import jobs_api
from components.cluster.head import head_answers, head_command, head_environment, token_environment
from components.cluster.jobs_api import ClusterRefusedError, job_name, open_client
from components.cluster.session import RayUnavailableError
from components.config import load_config
from components.registry import models
from components.registry.gates import Check, Verdict
from components.store.project import Project
from components.store.tables import clips, videos
from tests.cluster.faltering import faltering_head
from tests.cluster.kubectl import told, write_kubectl
from tests.flows.command import environment, kinora, start
from tests.flows.serving import ask_prefect, free_port, serving
from tests.generate.test_generator import folder as model  # noqa: F401  (a text-to-video folder of small untrained parts)

AS_JOB = ("--profile", "test", "--set", "cluster.stages_in=job")
REAP = "from flows.reap import reap; import json; print(json.dumps(reap(None, ['cluster.stages_in=kubernetes'], grace_seconds=0)))"


@dataclass(frozen=True)
class Servers:
    """A Ray head with a token and a Prefect server, and how a flow is told of them."""

    folder: Path
    variables: dict[str, str]

    def ask(self, path: str, **body: Any) -> Any:
        return ask_prefect(self.variables["PREFECT_API_URL"], path, body).raise_for_status().json()

    def jobs(self, project: str = "", running: bool = False) -> list[dict[str, Any]]:
        found = self._ray("GET", "/api/jobs/").json()
        found = [job for job in found if (job["submission_id"] or "").startswith(f"kinora-{project}")]
        return sorted((job for job in found if not running or job["status"] == "RUNNING"), key=lambda job: job["start_time"])

    def stop(self, job: str) -> None:
        self._ray("POST", f"/api/jobs/{job}/stop").raise_for_status()

    def _ray(self, method: str, path: str) -> httpx.Response:
        token = Path(self.variables["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
        return httpx.request(method, self.variables["RAY_ADDRESS"] + path, headers={"Authorization": f"Bearer {token}"}, timeout=30)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    prefect_port, *ray_ports = (free_port() for _ in range(4))
    temporary = Path("/tmp") / f"kin-jobs-{os.getpid()}"
    prefect = [
        str(Path(sys.executable).parent / "prefect"),
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(prefect_port),
        "--no-ui",
    ]
    ray = head_command(*ray_ports, temporary, load_config("test").cluster)
    api, dashboard = f"http://127.0.0.1:{prefect_port}/api", f"http://127.0.0.1:{ray_ports[1]}"
    quiet = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    try:
        with (
            serving(ray, folder, head_environment(folder), f"{dashboard}/api/gcs_healthz"),
            serving(prefect, folder, quiet, f"{api}/health"),
        ):
            until(lambda: head_answers(dashboard, folder), "the head's own node")
            yield Servers(folder, {"PREFECT_API_URL": api, "RAY_ADDRESS": dashboard, **token_environment(folder)})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def until(moment: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := moment()):
        assert time.monotonic() < deadline, f"it never came: {what}"
        time.sleep(0.2)
    return found


def content(project: Project) -> dict[str, str]:
    return {
        "clips": clips(project).digest(["clip_by", "split", "keep", "drop_reason", "curated_by"]),
        "videos": videos(project).digest(["status", "num_clips"]),
    }


def test_a_job_is_named_by_the_work_it_does() -> None:
    assert job_name("demo", "train_dit", "0123456789abcdef0123") == "kinora-demo-train_dit-0123456789abcdef"


def test_a_head_that_falters_between_two_requests_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with faltering_head() as address:
        client = jobs_api.open_client(address)
        with pytest.raises(RayUnavailableError, match=r"status code 503.*; hint: "):
            jobs_api.submit(client, "kinora-demo-ingest-0", "true", {})
        with pytest.raises(RayUnavailableError, match=r"status code 503.*; hint: "):
            jobs_api.jobs_of_ours(client)
        assert not jobs_api.stop(client, "kinora-demo-ingest-0-1")


@pytest.mark.parametrize("address", ["http://head:port", "http://", "ray://head:10001", "http://head:99999"])
def test_what_is_no_address_of_a_jobs_api_is_said_at_once(address: str) -> None:
    with pytest.raises(ClusterRefusedError, match="is no address of Ray's Jobs API; hint: RAY_ADDRESS=http://"):
        open_client(address)


@pytest.mark.slow
def test_two_flows_with_the_same_work_share_its_jobs(servers: Servers) -> None:
    arguments = ("run", "ingest", "--project", "shared", *AS_JOB)
    with (servers.folder / "other.log").open("w") as log:
        command = [sys.executable, "-m", "flows", *arguments]
        other = subprocess.Popen(command, cwd=servers.folder, env=environment(**servers.variables), stdout=log, stderr=log)
    done = kinora(servers.folder, *arguments, **servers.variables)
    assert done.returncode == 0, done.stderr[-4000:]
    assert other.wait(120) == 0, (servers.folder / "other.log").read_text()[-4000:]
    found = {job["submission_id"].rpartition("-")[2]: job["status"] for job in servers.jobs("shared")}
    assert found == {"1": "SUCCEEDED"}
    assert [job["metadata"]["stage"] for job in servers.jobs("shared")] == ["ingest", "curate"]

    kept = json.dumps(servers.jobs("shared"))
    assert Path(servers.variables["RAY_AUTH_TOKEN_PATH"]).read_text().strip() not in kept
    artifacts = {found["key"]: found["data"] for found in servers.ask("/artifacts/filter")}
    assert artifacts["ingest-progress"] == 100.0
    assert "curate-funnel" in artifacts


@pytest.mark.long
def test_a_champion_is_tried_by_a_job_of_the_cluster(servers: Servers, model: Path) -> None:  # noqa: F811
    project = Project(servers.folder / "runs", "tried")
    version = models.register(project, "text-to-video", model, {}, {})
    models.promote(project, "text-to-video", version, Verdict([Check("by hand", None, None, None, True, "a person chose it")]), None)
    overrides = ["cluster.stages_in=job", "curate.min_contrast=0.5"]
    script = f"from flows.check_champion import check_champion as check; check('tried', 'test', {overrides})"
    given = environment(**servers.variables)
    done = subprocess.run([sys.executable, "-c", script], cwd=servers.folder, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (job,) = servers.jobs("tried")
    assert (job["metadata"]["stage"], job["status"]) == ("check_champion", "SUCCEEDED")
    shown = {found["key"]: str(found["data"]) for found in servers.ask("/artifacts/filter") if found["key"].startswith("check-champion")}
    assert shown["check-champion-verdict"] == "version 1 of `tried-text-to-video` makes videos"
    assert shown["check-champion-videos"].startswith("data:image/png;base64,")


@pytest.mark.slow
def test_a_job_whose_driver_is_killed_goes_on_as_another_with_the_same_rows(servers: Servers) -> None:
    project = Project(servers.folder / "runs", "killed")
    running = start(servers.folder, "run", "ingest", "--project", "killed", *AS_JOB, **servers.variables)
    until(lambda: (project.folder / "tables" / "clips.lance" / "_versions").is_dir(), "clips")
    driver = until(lambda: _drivers("killed"), "the job's driver")[0]
    os.kill(driver, signal.SIGKILL)
    assert running.wait(180) == 0, (servers.folder / "kinora.log").read_text()[-4000:]
    assert [job["status"] for job in servers.jobs("killed")][:2] == ["FAILED", "SUCCEEDED"]
    undisturbed = Project(servers.folder / "runs", "whole")
    done = kinora(servers.folder, "run", "ingest", "--project", "whole", *AS_JOB, **servers.variables)
    assert done.returncode == 0, done.stderr[-4000:]
    assert content(project) == content(undisturbed)


@pytest.mark.slow
def test_whoever_stops_a_job_or_cancels_its_flow_ends_both_with_one_sentence(servers: Servers) -> None:
    arguments = ("run", "ingest", "--project", "stopped", *AS_JOB, "--set", "world.num_films=400")
    log = servers.folder / "kinora.log"

    def begun() -> tuple["subprocess.Popen[str]", dict[str, Any]]:
        log.write_text("")
        flow = start(servers.folder, *arguments, **servers.variables)
        return flow, until(lambda: servers.jobs("stopped", running=True), "a running job")[0]

    flow, job = begun()
    servers.stop(job["submission_id"])
    assert flow.wait(60) == 1
    assert "was stopped from outside" in log.read_text()
    assert "Traceback" not in log.read_text()

    flow, job = begun()
    servers.ask(f"/flow_runs/{job['metadata']['flow_run_id']}/set_state", state={"type": "CANCELLING"}, force=True)
    assert flow.wait(60) == 1
    assert "was cancelled in Prefect" in log.read_text()
    until(lambda: not servers.jobs("stopped", running=True), "the end of the job")

    flow, job = begun()
    os.kill(flow.pid, signal.SIGTERM)
    assert flow.wait(60) == 143
    assert log.read_text().splitlines()[-1] == "terminated; the same command resumes where it was"
    assert "Traceback" not in log.read_text()
    until(lambda: not servers.jobs("stopped", running=True), "the end of the job")
    states = {found["state"]["type"] for found in servers.ask("/flow_runs/filter") if found["id"] == job["metadata"]["flow_run_id"]}
    assert states <= {"CRASHED", "FAILED"}


@pytest.mark.slow
def test_the_reaper_ends_what_outlived_its_flow_and_leaves_the_rest(servers: Servers) -> None:
    rayjobs = write_kubectl(servers.folder)
    flow = start(servers.folder, "run", "--project", "orphan", *AS_JOB, "--set", "world.num_films=400", **servers.variables)
    job = until(lambda: servers.jobs("orphan", running=True), "a running job")[0]
    dead = job["metadata"]["flow_run_id"]
    for name, owner in (("kinora-ingest-0-1", dead), ("kinora-ingest-1-1", dead), ("kinora-ingest-2-1", str(uuid4()))):
        notes = {f"kinora/{key}": value for key, value in (job["metadata"] | {"flow_run_id": owner, "name": name}).items()}
        (rayjobs / f"{name}.json").write_text(json.dumps({"metadata": {"name": name, "annotations": notes}}))
    told(rayjobs, "kinora-ingest-1-1", "", jobDeploymentStatus="Complete")
    children = _children_of_a_dead_flow(servers)
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    first = _reaped(servers)  # nobody has said yet that the flow run of the job is over; the third RayJob's is not known at all
    assert (first["stopped"], first["crashed"]) == (["kinora-ingest-2-1"], [children["ours"]])
    servers.ask(f"/flow_runs/{dead}/set_state", state={"type": "CRASHED"}, force=True)
    (rayjobs / "no deletes").touch()
    reaped = _reaped(servers)
    assert reaped["stopped"] == [job["submission_id"]]
    assert len(reaped["crashed"]) == 1  # the subflow whose stage the job was
    assert [found["status"] for found in servers.jobs("orphan")] == ["STOPPED"]
    (rayjobs / "no deletes").unlink()
    assert _reaped(servers) == {"crashed": [], "stopped": ["kinora-ingest-0-1"], "remarks": []}
    assert [path.name for path in rayjobs.glob("*.json")] == ["kinora-ingest-1-1.json"]
    (rayjobs / "down").touch()
    quiet = _reaped(servers)
    assert (quiet["crashed"], quiet["stopped"]) == ([], [])
    assert "Kubernetes does not answer" in quiet["remarks"][0]
    states = {found["name"]: found["state"]["type"] for found in servers.ask("/flow_runs/filter")}
    assert {kind: states[name] for kind, name in children.items()} == {"ours": "CRASHED", "foreign": "RUNNING", "deployed": "RUNNING"}


@pytest.mark.slow
def test_a_cluster_that_is_not_there_or_lets_nobody_in_is_one_sentence(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    (tmp_path / "token").chmod(0o600)
    for changed, said in (
        ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, "does not take this token"),
        ({"RAY_ADDRESS": f"http://127.0.0.1:{free_port()}"}, "no Ray answers"),
    ):
        done = kinora(servers.folder, "run", "ingest", "--project", "nobody", *AS_JOB, **(servers.variables | changed))
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr


def _drivers(project: str) -> list[int]:
    """The processes of a project's jobs on this machine."""
    import psutil

    wanted = f'"project":"{project}"'
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(wanted in part for part in process.info["cmdline"] or ()) and "components.jobs" in (process.info["cmdline"] or ())
    ]


def _children_of_a_dead_flow(servers: Servers) -> dict[str, str]:
    """Makes a failed flow run while three runs that it called say they run: ours, a stranger's, a deployment's; answers their names."""
    flows = {name: servers.ask("/flows/", name=name)["id"] for name in ("ingest", "of-others")}
    deployment = servers.ask("/deployments/", name="apart", flow_id=flows["ingest"])["id"]
    parent = servers.ask("/flow_runs/", flow_id=flows["ingest"], state={"type": "FAILED"})["id"]
    calls = {
        "ours": ("/flow_runs/", {"flow_id": flows["ingest"]}),
        "foreign": ("/flow_runs/", {"flow_id": flows["of-others"]}),
        "deployed": (f"/deployments/{deployment}/create_flow_run", {}),
    }
    names = {}
    for kind, (path, body) in calls.items():
        caller = servers.ask("/task_runs/", flow_run_id=parent, task_key=kind, dynamic_key="0")["id"]
        made = servers.ask(path, **body, parent_task_run_id=caller, state={"type": "RUNNING"})
        servers.ask(f"/flow_runs/{made['id']}/set_state", state={"type": "RUNNING"}, force=True)
        names[kind] = made["name"]
    return names


def _reaped(servers: Servers) -> dict[str, list[str]]:
    path = f"{servers.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = environment(**servers.variables, PATH=path)
    done = subprocess.run([sys.executable, "-c", REAP], cwd=servers.folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answer
