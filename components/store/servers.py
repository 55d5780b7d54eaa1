"""The servers that `kinora up` runs on a root, written down in `servers.json`; one whose process is gone counts for nothing."""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOCK_SECONDS = 5.0  # a corrected clock moves the start of a process by this much at most; a recycled pid is younger


@dataclass(frozen=True)
class Server:
    """One server: its process by pid and start, where it answers, where it writes its log."""

    name: str
    pid: int
    started: float
    address: str
    log: str
    ready: bool = False  # it has answered once
    dashboard: str | None = None  # Ray's
    folder: str | None = None  # Ray's own temporary folder

    @property
    def lives(self) -> bool:
        return still_lives(self.pid, self.started)


def servers_file(root: Path) -> Path:
    """Answers where the servers of a root are written down."""
    return Path(root) / "servers.json"


def recorded_servers(root: Path) -> dict[str, Server]:
    """Answers every server that was written down, alive or not; a file that nobody can read counts as empty."""
    try:
        found: dict[str, dict[str, Any]] = json.loads(servers_file(root).read_text())
        known = {field.name for field in dataclasses.fields(Server)}
        return {name: Server(name, **{key: value for key, value in entry.items() if key in known}) for name, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def live_servers(root: Path) -> dict[str, Server]:
    """Answers the servers of a root that run and have answered."""
    return {name: server for name, server in recorded_servers(root).items() if server.ready and server.lives}


def record_servers(root: Path, servers: Iterable[Server]) -> None:
    """Writes the servers of a root down in one atomic step, for the owner alone; none removes the file."""
    path = servers_file(root)
    entries = {server.name: {key: value for key, value in dataclasses.asdict(server).items() if key != "name"} for server in servers}
    if not entries:
        return path.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(entries, handle, indent=1)
    os.replace(beside, path)


def still_lives(pid: int, started: float) -> bool:
    """Answers whether the process of a number is the one that started then, and no later one that got its number."""
    found = process_started(pid)
    return found is not None and abs(found - started) <= CLOCK_SECONDS


def process_started(pid: int) -> float | None:
    """Answers when a process started, in seconds since 1970; None where there is none, or only its remains."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
