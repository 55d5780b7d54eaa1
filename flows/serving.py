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

import httpx

from components.config import SettingsError, load_config
from flows.environment import quiet_environment

logger = logging.getLogger("kinora")
QUERY_SECONDS = "5"  # between two looks for runs that are due


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = load_config()
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", QUERY_SECONDS)
    quiet_environment(Path(config.root))
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(config.serving.watch_every_seconds, stop), name="arrivals", daemon=True)
    watcher.start()
    try:
        asyncio.run(serve(config.serving.max_runs))
    finally:
        stop.set()
        watcher.join(timeout=config.serving.watch_every_seconds)


async def serve(max_runs: int) -> None:
    """Works on the pool until a signal asks to stop."""
    from prefect.workers.process import ProcessWorker

    from flows.deployments import POOL

    worker = ProcessWorker(work_pool_name=POOL, name=f"kinora-{socket.gethostname()}-{os.getpid()}", limit=max_runs)
    working = asyncio.ensure_future(worker.start(printer=logger.info))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working


def watch(every_seconds: float, stop: threading.Event) -> None:
    """Looks at the source of every deployment on `footage.arrived`, as the server lists them, and tells of what came."""
    from flows.arrivals import Watchers

    watchers = Watchers()
    while not stop.wait(every_seconds):
        try:
            watchers.look()
        except (httpx.HTTPError, SettingsError, OSError) as error:  # the server is away, or a file of settings is being written
            logger.warning("footage could not be looked at: %s", error)


if __name__ == "__main__":
    main()
