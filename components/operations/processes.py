"""The processes of our servers: which they are, and their end; a stranger who got an old process number is left alone."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from components.operations.ports import MARK
from components.store.servers import Server, process_started

END_SECONDS = 15.0  # from the request to end until the kill
KILL_SECONDS = 10.0
LOOK_SECONDS = 0.1


def members(server: Server, root: Path) -> list[psutil.Process]:
    """Answers the living processes of a server: its first one, all that this one started, and Ray's by the name of their folder."""
    found: dict[int, psutil.Process] = {}
    first_started = process_started(server.pid)
    if server.lives:
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(server.pid)
            found = {process.pid: process for process in (first, *first.children(recursive=True))}
    recycled = first_started is not None and not server.lives
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            same_session = not recycled and os.getsid(process.pid) == server.pid
            ours = same_session and (server.lives or process.environ().get(MARK) == str(root))
            if ours or (server.folder and any(server.folder in word for word in process.cmdline())):
                found[process.pid] = process
    return [process for process in found.values() if process.pid != os.getpid() and _lives(process)]


def stop(servers: Iterable[Server], root: Path) -> None:
    """Asks servers to end, all at once, and kills what does not."""
    servers = list(servers)
    asked = {process for server in servers for process in members(server, root)}
    for process in asked:
        _signal(process, signal.SIGTERM)
    _wait(asked, END_SECONDS)
    left = {process for process in asked if _lives(process)} | {process for server in servers for process in members(server, root)}
    for process in left:
        _signal(process, signal.SIGKILL)
    _wait(left, KILL_SECONDS)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # psutil compares the start, so a recycled number is not hit
        process.send_signal(number)


def _wait(processes: Iterable[psutil.Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(_lives(process) for process in processes) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
