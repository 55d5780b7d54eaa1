"""What the doctor says of a Ray cluster: whether it lets us in, and whether its nodes are alike and have what a run needs."""

import os
from collections.abc import Iterator
from pathlib import Path

from components.cluster.jobs_api import ClusterRefusedError
from components.cluster.nodes import Node, installed, look_at_nodes, look_at_nodes_by_job
from components.cluster.session import RayUnavailableError
from components.operations.check import Check
from components.sections import Config

GIB = 2**30
DISK_NEEDED = 2 * GIB
WIDEST_CLOCK_SECONDS = 5.0


def examine_cluster(config: Config) -> Iterator[Check]:
    """Asks every node of the cluster of RAY_ADDRESS, through a job where that is the address of a Jobs API."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        yield Check("cluster", "fail", "`RAY_ADDRESS` is not set", "`kinora up` starts a cluster of one node, or name the head of yours")
        return
    try:
        root = Path(config.root)
        nodes = look_at_nodes_by_job(address, root) if address.startswith("http") else look_at_nodes(config, root)
    except (RayUnavailableError, ClusterRefusedError) as error:
        what, _, hint = str(error).partition("; hint: ")
        yield Check("cluster", "fail", what, hint)
        return
    yield Check("cluster", "ok", f"{len(nodes)} nodes answer")
    for node in nodes:
        yield from examine_node(node, config)


def examine_node(node: Node, config: Config) -> Iterator[Check]:
    """Compares a node with this machine and with what the settings ask for."""
    name, ours = f"node {node.address}", installed()
    differ = [
        f"{package} {there or 'missing'} (here {ours[package]})" for package, there in node.versions.items() if there != ours[package]
    ]
    wrong = []
    if differ:
        wrong.append(Check(name, "fail", f"other versions: {', '.join(differ)}", "install the same `requirements.lock` on all nodes"))
    if not node.sees_root and config.cluster.storage is None:
        hint = "share that folder among the nodes, or `--set cluster.storage=s3://BUCKET/FOLDER`"
        wrong.append(Check(name, "fail", f"it does not see `{Path(config.root).resolve()}`", hint))
    if abs(node.clock_seconds) > WIDEST_CLOCK_SECONDS:
        wrong.append(Check(name, "warn", f"its clock is {node.clock_seconds:+.0f} s from ours", "set both by NTP"))
    if node.disk_bytes < DISK_NEEDED:
        wrong.append(Check(name, "fail", f"{node.disk_bytes / GIB:.1f} GiB of disk free in /tmp", "free some space there"))
    if node.shared_memory_bytes is None or node.shared_memory_bytes < config.cluster.object_store_bytes:
        there = "no /dev/shm" if node.shared_memory_bytes is None else f"{node.shared_memory_bytes / GIB:.1f} GiB of shared memory free"
        wrong.append(Check(name, "warn", there, f"`--shm-size={config.cluster.object_store_bytes / GIB:.1f}g` for its container"))
    gpus = f", {node.gpus:g} GPUs" if node.gpus else ""
    yield from wrong or [Check(name, "ok", f"the same versions as here{gpus}")]
