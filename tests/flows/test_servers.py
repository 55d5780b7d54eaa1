"""A run against real servers on the loopback, told by their addresses: Prefect's, MLflow's and a Ray of its own."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from components.cluster.session import token_file
from components.stages import STAGES
from components.store.project import Project
from components.store.tables import clips
from flows.footage_to_model import STAGE_FLOWS, footage_to_model
from tests.flows.command import environment, kinora
from tests.flows.serving import ask_prefect, free_port, serving

pytestmark = pytest.mark.long

SCHEDULED = """
import sys
from flows.footage_to_model import footage_to_model
assert {outcome.action for outcome in footage_to_model(profile="test")} == {"skip"}
assert not {"ray", "torch"} & set(sys.modules)
"""


def test_a_run_shows_in_a_prefect_and_an_mlflow_server_and_computes_in_a_ray_cluster(tmp_path: Path) -> None:
    prefect_port, mlflow_port, ray_port, dashboard_port = (free_port() for _ in range(4))
    bin_folder = Path(sys.executable).parent
    temporary = Path(os.environ.get("TMPDIR", "/tmp")) / f"kin-test-{os.getpid()}"
    token = token_file(tmp_path / "runs")
    prefect = [str(bin_folder / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port), "--no-ui"]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{tmp_path / 'm.db'}", "--artifacts-destination", str(tmp_path / "files")]
    ray = [str(bin_folder / "ray"), "start", "--head", "--block", f"--port={ray_port}", "--num-cpus=2", "--disable-usage-stats"]
    ray += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}", f"--temp-dir={temporary}"]
    secured = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    quiet = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    addresses = {
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect_port}/api",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
        "RAY_ADDRESS": f"127.0.0.1:{ray_port}",
    }
    with (
        serving(prefect, tmp_path, quiet, f"{addresses['PREFECT_API_URL']}/health"),
        serving(mlflow, tmp_path, quiet, f"{addresses['MLFLOW_TRACKING_URI']}/health"),
        serving(ray, tmp_path, secured | {"PYTHONPATH": environment()["PYTHONPATH"]}, f"http://127.0.0.1:{dashboard_port}/api/gcs_healthz"),
    ):
        done = kinora(tmp_path, "run", "--profile", "test", **addresses, **secured)
        assert done.returncode == 0, done.stderr[-4000:]
        project = Project(tmp_path / "runs", "demo")
        assert clips(project).count("latents_by IS NOT NULL") == clips(project).count("keep = true")

        runs = ask_prefect(addresses["PREFECT_API_URL"], "/flow_runs/filter").json()
        assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
        assert len(runs) == 1 + len(STAGE_FLOWS)
        flows = {flow["name"] for flow in ask_prefect(addresses["PREFECT_API_URL"], "/flows/filter").json()}
        assert flows == {flow.name for flow in (footage_to_model, *STAGE_FLOWS)}
        artifacts = {found["key"] for found in ask_prefect(addresses["PREFECT_API_URL"], "/artifacts/filter").json()}
        assert {"curate-funnel", "caption-captions", "evaluate-samples", "train-dit-progress"} <= artifacts

        found = httpx.get(f"{addresses['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/search").json()
        names = {model["name"] for model in found["registered_models"]}
        assert names == {"demo-captioner", "demo-video-vae", "demo-text-to-video"}
        assert not (tmp_path / "runs" / "mlflow.db").exists()
        assert not (tmp_path / "runs" / "prefect" / "prefect.db").exists()

        again = kinora(tmp_path, "run", "--profile", "test", **addresses, **secured)
        assert "nothing was started" in again.stderr

        nowhere = addresses | {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
        scheduled = subprocess.run(
            [sys.executable, "-c", SCHEDULED], cwd=tmp_path, env=environment(**nowhere), capture_output=True, text=True
        )
        assert scheduled.returncode == 0, scheduled.stderr[-4000:]
        skipped = {"task_runs": {"state": {"name": {"any_": ["Skipped"]}}}}
        tasks = ask_prefect(addresses["PREFECT_API_URL"], "/task_runs/filter", skipped).json()
        assert sorted(task["name"].rpartition("-")[0] for task in tasks) == sorted(STAGES)
