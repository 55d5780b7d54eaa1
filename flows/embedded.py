"""The Prefect server of one run: started before anything heavy is imported, and gone with the process that started it.

Prefect would start one itself, but only at its first question, after importing the whole server into this process to do so.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
APP = "prefect.server.api.server:create_app"
ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}  # as Prefect starts its own
STARTUP_SECONDS = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
LOOK_SECONDS = 0.1
STOP_SECONDS = 5.0


class EmbeddedServerError(RuntimeError):
    """Prefect's server of this run did not start; the message says what to do."""


@dataclass(frozen=True)
class _Server:
    """A server of this process: its process, where it will answer, and whose records it keeps."""

    process: "subprocess.Popen[str]"
    address: str
    home: str


_server: _Server | None = None


def start() -> None:
    """Starts the server beside what this process does next, unless a person named one or has a profile of Prefect's own.

    Raises:
        EmbeddedServerError: its process ended at once.
    """
    global _server
    home = os.path.expanduser(os.environ.get("PREFECT_HOME", "~/.prefect"))
    if os.environ.get("PREFECT_API_URL") or (Path(home) / "profiles.toml").exists():
        return
    if _server is not None and _server.process.poll() is None and _server.home == home:
        return
    stop()
    from components.cluster.session import python_path  # not above: the server's own process needs none of it

    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": python_path()},
        stdin=subprocess.PIPE,  # which ends when this process does, however it does
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us; the server must hear how the flow ended
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        raise _ended(process.wait())
    _server = _Server(process, f"http://{HOST}:{port}/api", home)
    atexit.register(stop)  # before Prefect's own, which runs first and sends what it still has


def stop() -> None:
    """Ends the server that `start` started; without one it does nothing."""
    global _server
    server, _server = _server, None
    if server is None:
        return
    server.process.terminate()
    try:
        server.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    for pipe in (server.process.stdin, server.process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def used(meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Waits for the server and lets Prefect use it while the block lasts; without one Prefect does as it is told elsewhere.

    Args:
        meanwhile: called before the wait.

    Raises:
        EmbeddedServerError: it ended, or did not answer in time.
    """
    server = _server
    if server is None:
        yield
        return
    meanwhile()
    _wait(server)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.address}):
        yield


def lasting_address() -> str | None:
    """Answers the address of the Prefect server in use, unless it is this process's own, which is gone when the process is."""
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    return str(address) if address and (_server is None or address != _server.address) else None


def _wait(server: _Server) -> None:
    from components.operations.server_kinds import answers

    until = time.monotonic() + float(os.environ.get(STARTUP_SECONDS, "120"))
    while answers(f"{server.address}/health") is None:
        if (code := server.process.poll()) is not None:
            raise _ended(code)
        if time.monotonic() > until:
            raise EmbeddedServerError(
                f"Prefect's server did not answer in time; hint: is this machine very busy? More seconds by {STARTUP_SECONDS}"
            )
        time.sleep(LOOK_SECONDS)


def _ended(code: int) -> EmbeddedServerError:
    return EmbeddedServerError(f"Prefect's server ended with {code} as it started; hint: the lines above say why, or `kinora doctor`")


def _serve() -> None:
    """What the server's process does: says its port, then serves until the process that started it ends."""
    listening = socket.create_server((HOST, 0))
    print(listening.getsockname()[1], flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.Server(uvicorn.Config(APP, factory=True, log_level="error", lifespan="on")).run([listening])


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    _serve()
