"""The serving process, `python -m flows.serving`: takes up the runs of the work pool `kinora` and watches the folders of footage.

Each run is a process of its own. SIGTERM ends the process, and with it what it runs; it starts again where it was.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

from components.config import load_config
from flows.__main__ import BAD_INPUT, say
from flows.environment import quiet_environment

if TYPE_CHECKING:
    from flows.arrivals import Watchers

logger = logging.getLogger("kinora")
QUERY_SECONDS = "5"  # between two looks for runs that are due


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = load_config()
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", QUERY_SECONDS)
    quiet_environment(Path(config.root))
    from flows.arrivals import Watchers  # Prefect whole, before a second thread imports of it
    from flows.server import address

    address()
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(Watchers(), config.serving.watch_every_seconds, stop), name="arrivals", daemon=True)
    watcher.start()
    try:
        mark_dead_runs("the process that served it is gone")
        asyncio.run(serve(config.serving.max_runs))
    finally:
        stop.set()
        mark_dead_runs("the process that served it was stopped")


async def serve(max_runs: int) -> None:
    """Works on the pool until a signal asks to stop."""
    from prefect.workers.process import ProcessWorker

    from flows.deployments import POOL

    worker = ProcessWorker(work_pool_name=POOL, name=f"{served_here()}{os.getpid()}", limit=max_runs)
    healthcheck = "PREFECT_WORKER_WEBSERVER_PORT" in os.environ  # whoever named a port, such as a container, asks there
    working = asyncio.ensure_future(worker.start(with_healthcheck=healthcheck, printer=logger.info))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working


def watch(watchers: "Watchers", every_seconds: float, stop: threading.Event) -> None:
    """Looks at the source of every deployment on `footage.arrived`, as the server lists them, and tells of what came."""
    while not stop.wait(every_seconds):
        try:
            watchers.look()
        except (httpx.HTTPError, ValueError, OSError) as error:  # the server is away
            logger.warning("footage could not be looked at: %s", error)


def mark_dead_runs(why: str) -> None:
    """Marks the runs crashed whose process on this machine is no more, so that their slots are free at once."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    from flows.deployments import unfinished_runs

    try:
        with get_client(sync_client=True) as client:
            for run in unfinished_runs(client):
                pid = run.infrastructure_pid or ""
                if (
                    str(run.labels.get("prefect.worker.name", "")).startswith(served_here())
                    and pid.isdigit()
                    and not psutil.pid_exists(int(pid))
                ):
                    client.set_flow_run_state(run.id, Crashed(message=f"{why}; the next run resumes where it was"), force=True)
                    logger.info("run %s is marked as crashed: %s", run.name, why)
    except httpx.HTTPError as error:  # without a server the automation marks them, once it is back
        logger.warning("no run could be marked: %s", error)


def served_here() -> str:
    """Answers how the names of this machine's serving processes begin."""
    return f"kinora-{socket.gethostname()}-"


if __name__ == "__main__":
    try:
        main()
    except ValueError as mistake:
        sys.exit(say(str(mistake), BAD_INPUT))
