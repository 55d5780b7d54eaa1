"""Real servers for tests: each in a process group of its own, on a free port of the loopback."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.flows.command import environment

PATIENCE_SECONDS = 400
BUSY_SECONDS = 60
OURS = range(20000, 32000)  # above the ports of Ray's workers, below those that the system gives to connections meanwhile


def free_port() -> int:
    """Answers a port of the loopback that nobody has and that nobody is given."""
    while True:
        port = random.choice(OURS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ask_prefect(api: str, path: str, body: Any = None, method: str = "POST") -> httpx.Response:
    """Answers what a Prefect server says; while its SQLite is busy it says 503, which Prefect's own client bears too."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        answer = httpx.request(method, f"{api}{path}", json={} if body is None else body, timeout=60)
        if answer.status_code != 503:
            return answer
        assert time.monotonic() < until, f"the server is too busy for {path}"
        time.sleep(0.5)


@contextmanager
def serving(command: list[str], folder: Path, variables: dict[str, str], health: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a server until the block ends."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(**variables), stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                urllib.request.urlopen(health, timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
                assert time.monotonic() < until, "the server did not come up"
                time.sleep(0.5)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
