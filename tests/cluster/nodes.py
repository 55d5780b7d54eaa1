"""Ray as several nodes on one machine, started and ended as an operator does, each in a process group of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from components.cluster.session import LOCAL_ENVIRONMENT, token_file
from tests.flows.serving import free_port

RAY = str(Path(sys.executable).with_name("ray"))
REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 400


class Cluster:
    """A head and the nodes that joined it.

    Attributes:
        secured: what lets a client in.
        environment: of a driver.
        jobs_api: where the head's Jobs API listens.
    """

    def __init__(self, root: Path, stack: ExitStack, head_cpus: int) -> None:
        self._stack = stack
        self._port, dashboard = free_port(), free_port()
        self.address, self.jobs_api = f"127.0.0.1:{self._port}", f"http://127.0.0.1:{dashboard}"
        self.secured = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(root))}
        self.environment = {**os.environ, **self.secured, "RAY_ADDRESS": self.address, "PYTHONPATH": str(REPOSITORY)}
        self._nodes_environment = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"} | LOCAL_ENVIRONMENT
        head = ["--head", f"--port={self._port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        self.head = self._start(head, head_cpus)
        self._wait(lambda: bool(self._alive()), self.head)

    def add_node(self) -> "subprocess.Popen[bytes]":
        """Starts one more node of one CPU, and answers once the cluster knows it: an elastic training would begin without it."""
        before = self._alive()
        node = self._start([f"--address={self.address}"], 1)
        self._wait(lambda: bool(self._alive() - before), node)
        return node

    def _alive(self) -> set[str]:
        token = Path(self.secured["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
        request = urllib.request.Request(f"{self.jobs_api}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = [node["raylet"] for node in json.load(answer)["data"]["summary"]]
        except (OSError, ValueError, KeyError):
            return set()
        return {node["nodeId"] for node in found if node.get("state") == "ALIVE"}

    def _start(self, arguments: list[str], cpus: int) -> "subprocess.Popen[bytes]":
        folder = self._stack.enter_context(_short_folder())
        command = [RAY, "start", "--block", *arguments, f"--num-cpus={cpus}", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += ["--dashboard-agent-listen-port=0", f"--object-store-memory={100 * 2**20}"]
        log = self._stack.enter_context((folder / "start.log").open("wb"))
        node = subprocess.Popen(
            command, env=self._nodes_environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._stack.callback(_end, node, folder)
        return node

    @staticmethod
    def _wait(ready: Callable[[], bool], node: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            assert node.poll() is None, "Ray did not start"
            assert time.monotonic() < deadline, "Ray did not answer"
            time.sleep(0.2)


def kill_raylet(node: "subprocess.Popen[bytes]") -> None:
    """Kills what makes a node a node, and waits until its workers have followed by themselves."""
    raylet = next(process for process in psutil.Process(node.pid).children(recursive=True) if process.name() == "raylet")
    workers = raylet.children(recursive=True)
    raylet.kill()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert not left


@contextmanager
def cluster(root: Path, head_cpus: int = 1) -> Iterator[Cluster]:
    """Lends a cluster of one node; all that was started ends with it."""
    with ExitStack() as stack:
        yield Cluster(root, stack, head_cpus)


@contextmanager
def _short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kin-node-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(node: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Ends a node: its process group, then whatever still names its folder."""
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
