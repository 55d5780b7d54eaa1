"""The processes of our servers: which they are, and their end; a stranger who got an old process number is left alone."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from components.cluster.processes import lives, send, wait
from components.operations.ports import MARK
from components.store.servers import Server, process_started

END_SECONDS = 15.0  # from the request to end until the kill
KILL_SECONDS = 10.0


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
    return [process for process in found.values() if process.pid != os.getpid() and lives(process)]


def stop(servers: Iterable[Server], root: Path) -> None:
    """Asks servers to end, all at once, and kills what does not."""
    servers = list(servers)
    asked = {process for server in servers for process in members(server, root)}
    for process in asked:
        send(process, signal.SIGTERM)
    wait(asked, END_SECONDS)
    left = {process for process in asked if lives(process)} | {process for server in servers for process in members(server, root)}
    for process in left:
        send(process, signal.SIGKILL)
    wait(left, KILL_SECONDS)
