"""What every node of a Ray cluster has installed and free, seen by one tiny task a node; as a job, `python -m` prints it as JSON."""

import contextlib
import json
import os
import platform
import shutil
import sys
import time
import uuid
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from components.cluster import jobs_api
from components.cluster.session import RayUnavailableError, ray_session

PACKAGES = ("kinora", "ray", "torch", "pylance", "pyarrow", "mlflow", "av")
ANSWER_SECONDS = 120.0
JOB_SECONDS = ANSWER_SECONDS + 60.0  # with the start of the job
MARK = "@nodes "  # of the line of a job's log that is the answer


@dataclass(frozen=True)
class Node:
    """One node: its versions by package, and what it has."""

    address: str
    versions: dict[str, str | None]
    clock_seconds: float  # ahead of this machine, as far as the answer's way allows to tell
    disk_bytes: int
    shared_memory_bytes: int | None
    sees_root: bool
    gpus: float


def facts(root: str) -> dict[str, Any]:
    """Answers what the machine that runs this has; runs on a node."""
    shared = Path("/dev/shm")
    return {
        "versions": installed(),
        "clock": time.time(),
        "disk": shutil.disk_usage("/tmp").free,
        "shared_memory": shutil.disk_usage(shared).free if shared.is_dir() else None,
        "sees_root": os.path.isdir(root),
    }


def installed() -> dict[str, str | None]:
    """Answers the versions of Python and of the packages that must be alike on all nodes."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def look_at_nodes(config: Any, root: Path) -> list[Node]:
    """Connects to the cluster of RAY_ADDRESS and asks every node.

    Raises:
        RayUnavailableError: no such cluster, a wrong token, other versions, or a node that does not answer.
    """
    with ray_session(config, root):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        alive = [node for node in ray.nodes() if node["Alive"]]
        asked = {}
        for node in alive:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(facts).options(num_cpus=0, scheduling_strategy=here, max_retries=0)
            asked[task.remote(str(root.resolve()))] = node
        found, until = [], time.monotonic() + ANSWER_SECONDS
        while asked:
            ready, late = ray.wait(list(asked), num_returns=1, timeout=max(0.0, until - time.monotonic()))
            if not ready:
                silent = asked[late[0]]["NodeManagerAddress"]
                raise RayUnavailableError(
                    f"the node {silent} runs no task within {ANSWER_SECONDS:.0f} s; "
                    "hint: Kinora must be installed there, in the same Python"
                )
            found.append(_node(asked.pop(ready[0]), ray.get(ready[0])))  # at once, since its clock is compared with ours
        return found


def look_at_nodes_by_job(address: str, root: Path) -> list[Node]:
    """Asks every node of a cluster that is reached by its Jobs API alone, through a job that asks them.

    Raises:
        RayUnavailableError, ClusterRefusedError: as `look_at_nodes`, and where the job fails.
    """
    client = jobs_api.open_client(address)
    command = jobs_api.shell_command(address, "components.cluster.nodes", str(root.resolve()))
    told: dict[str, Any] = {}
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if line.startswith(MARK):
            told.update(json.loads(line.removeprefix(MARK)), heard_at=time.time())

    asked_at, until = time.time(), time.monotonic() + JOB_SECONDS

    def watch() -> None:
        if time.monotonic() > until:
            raise RayUnavailableError(f"no node answered within {JOB_SECONDS:.0f} s; hint: `ray status` on the head says what it waits for")

    job = jobs_api.submit(client, f"doctor-{uuid.uuid4().hex[:12]}", command, {"project": "doctor"})
    try:
        ended = jobs_api.follow(client, job, hear, watch)
    finally:
        jobs_api.stop(client, job.id)
        with contextlib.suppress(Exception):  # one that cannot be removed stays in the list, and harms nobody
            client.delete_job(job.id)
    if "error" in told:
        raise RayUnavailableError(told["error"])
    if "nodes" not in told:
        last = next((line.strip() for line in reversed(said) if line.strip()), ended.message)
        raise RayUnavailableError(
            f"the job that asks the nodes failed ({last[:200]}); hint: Kinora must be installed on the cluster's head, in the same Python"
        )
    apart = max(0.0, told["clock"] - told["heard_at"]) - max(0.0, asked_at - told["clock"])  # of the head's clock, at least
    return [replace(node, clock_seconds=node.clock_seconds + apart) for node in (Node(**one) for one in told["nodes"])]


def _node(node: dict[str, Any], found: dict[str, Any]) -> Node:
    return Node(
        address=node["NodeManagerAddress"],
        versions=found["versions"],
        clock_seconds=found["clock"] - time.time(),
        disk_bytes=found["disk"],
        shared_memory_bytes=found["shared_memory"],
        sees_root=found["sees_root"],
        gpus=node["Resources"].get("GPU", 0.0),
    )


def main(root: str) -> int:
    """Prints what every node has, for whoever started this as a job."""
    try:
        told: dict[str, Any] = {"nodes": [asdict(node) for node in look_at_nodes(None, Path(root))]}
    except RayUnavailableError as error:
        told = {"error": str(error)}
    print(MARK + json.dumps(told | {"clock": time.time()}), flush=True)
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
