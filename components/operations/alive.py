"""Names a process so that another one can tell later whether it still lives: its number, start and machine."""

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil


def here() -> dict[str, Any]:
    """Answers the name of this process: pid, when it started, host."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}


def lives(process: Mapping[str, Any]) -> bool | None:
    """Answers whether a named process still lives; None where it is of another machine, which cannot be seen from here."""
    if process.get("host", socket.gethostname()) != socket.gethostname():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(process["started"])) < 1.0
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
