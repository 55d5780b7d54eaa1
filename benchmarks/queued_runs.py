"""Are 100 flow runs that are queued at once all run, and each once? The bar is none lost and none doubled.

Run: python -m benchmarks.queue [--quick]

What is measured is the road of every scheduled run: the local Prefect server, the work pool `kinora`, the serving process
(`python -m flows.serving`) and one process a run, over a deployment registered as `kinora deploy` registers one. The flow itself
only writes its run's id into a ledger, so that what is counted is the queue and not the work; a flow of Kinora's own would add
its imports to each run and nothing to the question. The rate is that of this machine's processes starting, not of the server.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run

from flows.environment import quiet_environment
from tests.flows.serving import free_port, serving

REPOSITORY = Path(__file__).resolve().parent.parent
RUNS, QUICK_RUNS = 100, 8
AT_ONCE = 4
EACH_SECONDS = 20  # how long a run may take before all is given up
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@flow(name="ledger", persist_result=False)
def line(ledger: str) -> None:
    """Adds the id of its run to a file; a line as short as that is written in one piece."""
    with open(ledger, "a") as file:
        file.write(f"{flow_run.get_id()}\n")


def measure(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kin-queue-") as place, served(Path(place)):
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        ledger = Path(place) / "ledger"
        ledger.touch()
        with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
            deployment = deploy(client, Path(place), ledger)
            begin = time.perf_counter()
            with ThreadPoolExecutor(8) as pool:  # asked twice where the database was busy, so each has a key
                made = pool.map(lambda key: client.create_flow_run_from_deployment(deployment, idempotency_key=str(key)), range(runs))
                queued = [str(run.id) for run in made]
            queued_seconds = time.perf_counter() - begin
            states = wait(client, queued, begin + 60 + EACH_SECONDS * runs)
        seconds = time.perf_counter() - begin
        written = Counter(ledger.read_text().split())
    return {
        "lost": sum(1 for run in queued if run not in written or states[run] != "COMPLETED"),
        "doubled": sum(count - 1 for count in written.values()) + len(set(written) - set(queued)),
        "queued_seconds": queued_seconds,
        "seconds": seconds,
        "runs_per_minute": 60 * runs / seconds,
    }


def deploy(client: Any, place: Path, ledger: Path) -> Any:
    """Registers the ledger's flow in Kinora's work pool, as a process of this folder."""
    from flows.deployments import POOL, ensure_pool

    ensure_pool(client)
    return client.create_deployment(
        flow_id=client.create_flow_from_name(line.name),
        name="ledger",
        entrypoint="benchmarks.queued_runs.line",
        parameters={"ledger": str(ledger)},
        work_pool_name=POOL,
        job_variables={"working_dir": str(place), "command": f"{sys.executable} -m prefect.engine"},
        pull_steps=[],
    )


def wait(client: Any, queued: list[str], until: float) -> dict[str, str]:
    """Waits until every run has ended and answers the states; what is late counts as it is."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    while True:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run) for run in queued])), limit=len(queued)
        )
        states = {str(run.id): run.state.type.value for run in found}
        if all(states.get(run) in ENDED for run in queued) or time.perf_counter() > until:
            return {run: states.get(run, "GONE") for run in queued}
        time.sleep(1)


@contextmanager
def served(place: Path) -> Iterator[None]:
    """Runs a Prefect server and a serving process on the loopback until the block ends."""
    import yaml

    settings = yaml.safe_load((REPOSITORY / "pipelines.yaml").read_text())
    settings["defaults"]["serving"]["max_runs"] = AT_ONCE
    (place / "pipelines.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    os.environ |= {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(place / "prefect"),
    }
    quiet_environment(place)  # as `kinora up` starts the server
    health = f"{os.environ['PREFECT_API_URL']}/health"
    own = {"KINORA_CONFIG": str(place / "pipelines.yaml")}
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with serving(server, place, own, health), serving([sys.executable, "-m", "flows.serving"], place, own, health):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs in place of {RUNS}")
    runs = QUICK_RUNS if parser.parse_args().quick else RUNS
    found = measure(runs)
    print(f"{runs} runs queued in {found['queued_seconds']:.1f} s, all ended after {found['seconds']:.0f} s, {AT_ONCE} at once")
    figures = {name: {"value": found[name], "bar": 0, "holds": found[name] == 0} for name in ("lost", "doubled")}
    rate = {"value": round(found["runs_per_minute"], 1), "bar": None, "holds": True}
    print(json.dumps({"runs": {"value": runs, "bar": None, "holds": True}, **figures, "runs_per_minute": rate}))
