"""What every node of a Ray cluster has installed and free, seen by one tiny task a node."""

import os
import platform
import shutil
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.cluster.session import RayUnavailableError, ray_session

PACKAGES = ("kinora", "ray", "torch", "pylance", "pyarrow", "mlflow", "av")
ANSWER_SECONDS = 120.0


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
