"""Names a process so that another one can tell later whether it still lives: its number, start and machine."""

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil

from components.store.servers import still_lives


def here() -> dict[str, Any]:
    """Answers the name of this process: pid, when it started, host."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}


def lives(process: Mapping[str, Any]) -> bool | None:
    """Answers whether a named process still lives; None where it is of another machine, which cannot be seen from here."""
    if process.get("host", socket.gethostname()) != socket.gethostname():
        return None
    try:
        return still_lives(int(process["pid"]), float(process["started"]))
    except (KeyError, TypeError, ValueError):
        return False
