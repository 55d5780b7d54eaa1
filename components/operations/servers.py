"""Starts the servers of a root and stops just those: Prefect, MLflow, Ray's head and the process that serves deployments."""

import contextlib
import dataclasses
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from components.cluster.folders import give_folder, make_folder, remove_folder
from components.operations.ports import LOOPBACK, chosen_ports
from components.operations.processes import members, stop
from components.operations.server_kinds import KINDS, Kind, Place, environment_of, kinds_here
from components.sections import Config
from components.store.secret_files import make_private_folder
from components.store.servers import Server, process_started, record_servers, recorded_servers

START_SECONDS = 480.0  # far more than any start takes; what cannot start ends by itself
REMARK_SECONDS = 60.0
LOOK_SECONDS = 0.5
LARGEST_LOG = 16 * 2**20  # bytes; a longer log is put aside when its server starts anew
OPTIONS = {"prefect": ("--prefect-port",), "mlflow": ("--mlflow-port",), "ray": ("--ray-port", "--dashboard-port"), "serving": ()}
TELLING = re.compile(r"error|exception|fail|refused|in use|denied|no space|not found|invalid", re.IGNORECASE)
LONGEST_SAID = 300

Say = Callable[[str], None]


class ServerFailedError(RuntimeError):
    """A server did not start; the message says which, why, and where its log is."""


class ServersBusyError(ValueError):
    """Another `kinora up` or `kinora down` works on this root."""


@dataclass
class _Starting:
    """A server of this call: its process, and where this start begins in its log."""

    server: Server
    process: "subprocess.Popen[bytes] | None"
    log_from: int
    since: float
    attempt: int = 1


def up(config: Config, ports: Mapping[str, int], say: Say) -> list[Server]:
    """Starts what does not run yet and waits until all are well; when one fails, those that this call started are stopped again.

    Args:
        ports: of each option of `OPTIONS`; 0 for a free one.
        say: told of each server that is up.

    Raises:
        PortTakenError: a port cannot be had; nothing was started.
        ServerFailedError: a server ended, or did not answer in time.
    """
    root = Path(config.root).resolve()
    with _alone(root):
        known = _tidied(root)
        for server in known.values():
            say(f"{server.name}: runs already{_at(server)} (process {server.pid})")
        missing = [name for name in kinds_here() if name not in known]
        options = [option for name in missing for option in OPTIONS[name]]
        place = Place(root, config, chosen_ports({option: ports[option] for option in options}), known)
        started: dict[str, _Starting] = {}
        try:
            waiting = {name: _Starting(server, None, 0, time.monotonic()) for name, server in known.items()}
            _start_and_wait(place, missing, waiting, started, say)
        except BaseException:
            _stop([start.server for start in started.values()], root)
            _forget(root, started)
            if started:
                say(f"stopped again: {', '.join(started)}")
            raise
        return list(recorded_servers(root).values())


def down(root: Path, say: Say) -> list[str]:
    """Stops the servers that `up` started on a root, waits for their end, and answers their names."""
    root = root.resolve()
    if not root.is_dir():
        return []
    with _alone(root):
        servers = list(recorded_servers(root).values())
        running = [server.name for server in servers if members(server, root)]
        if running:
            say(f"stopping {', '.join(running)}")
        _stop(servers, root)
        record_servers(root, [])
    return running


def _start_and_wait(place: Place, missing: Sequence[str], waiting: dict[str, _Starting], started: dict[str, _Starting], say: Say) -> None:
    left = sorted(missing, key=lambda name: KINDS[name].attempts == 1)  # who may miss the time it is given comes first
    together = max(2, os.cpu_count() or 2)
    remark_at = time.monotonic() + REMARK_SECONDS
    while left or waiting:
        ready = [name for name in left if not set(KINDS[name].after) & ({*left, *waiting} - {name})]
        for name in ready[: max(0, together - len(waiting))]:
            left.remove(name)
            start = _start(name, KINDS[name], place)
            waiting[name] = started[name] = start
            place = dataclasses.replace(place, servers={**place.servers, name: start.server})
            record_servers(place.root, place.servers.values())
        for name, start in list(waiting.items()):
            if _ended(start) and name in started and start.attempt < KINDS[name].attempts:
                say(f"{name}: did not start at once, it is tried again")
                stop([start.server], place.root)
                again = _start(name, KINDS[name], place)
                waiting[name] = started[name] = dataclasses.replace(again, attempt=start.attempt + 1, since=start.since)
                place = dataclasses.replace(place, servers={**place.servers, name: again.server})
                record_servers(place.root, place.servers.values())
            elif _is_up(start, place):
                del waiting[name]
                place = dataclasses.replace(place, servers={**place.servers, name: dataclasses.replace(start.server, ready=True)})
                record_servers(place.root, place.servers.values())
                if name in started:
                    say(f"{name}: up{_at(start.server)} in {time.monotonic() - start.since:.0f} s")
        if waiting and time.monotonic() > remark_at:
            say(f"{', '.join(waiting)} still to come up")
            remark_at += REMARK_SECONDS
        time.sleep(LOOK_SECONDS if waiting else 0)


def _is_up(start: _Starting, place: Place) -> bool:
    """Answers whether a server is well by now; one that ended or takes too long is an error."""
    server, ended = start.server, _ended(start)
    if not ended and KINDS[server.name].is_well(server, place):
        return True
    late = time.monotonic() - start.since > START_SECONDS * start.attempt
    if not ended and not late:
        return False
    what = "ended at once" if ended and start.process else "ended" if ended else f"does not answer{_at(server)}"
    said = telling_line(Path(server.log), start.log_from)
    hint = f"the whole log is `{server.log}`" if start.process else "`kinora down`, then `kinora up` starts it anew"
    raise ServerFailedError(f"`{server.name}` {what}: {said or 'its log says nothing'}; hint: {hint}")


def _ended(start: _Starting) -> bool:
    return start.process.poll() is not None if start.process else not start.server.lives


def _start(name: str, kind: Kind, place: Place) -> _Starting:
    folder = make_folder() if name == "ray" else None
    place = dataclasses.replace(place, folder=folder)
    path = place.root / "logs" / f"{name}.log"
    if name == "prefect":
        make_private_folder(place.root / "prefect")  # its database holds the blocks, among them an address for failures
    with _log(path) as log:
        begin = log.tell()
        process = subprocess.Popen(
            kind.command(place),
            env=environment_of(kind, place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if folder is not None:
        give_folder(folder, process.pid)
    server = Server(
        name=name,
        pid=process.pid,
        started=process_started(process.pid) or time.time(),
        address=_address(name, place),
        log=str(path),
        dashboard=place.address("--dashboard-port") if name == "ray" else None,
        folder=str(folder) if folder else None,
    )
    return _Starting(server, process, begin, time.monotonic())


def _address(name: str, place: Place) -> str:
    match name:
        case "ray":
            return f"{LOOPBACK}:{place.ports['--ray-port']}"
        case "prefect" | "mlflow":
            return place.address(f"--{name}-port")
    return ""


def _at(server: Server) -> str:
    return f" at {server.dashboard or server.address}" if server.address else ""


def _log(path: Path) -> IO[bytes]:
    """Opens a log for the owner alone, at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        os.replace(path, path.with_name(f"{path.name}.old"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def telling_line(log: Path, begin: int = 0) -> str:
    """Answers the last line of a log that names an error, else its last line."""
    with contextlib.suppress(OSError):
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_bytes()[begin:].decode(errors="replace"))
        lines = [line.strip(" \t|\u2502\u256d\u2570\u2500\u256e\u256f") for line in text.splitlines()]
        lines = [line for line in lines if line]
        errors = [line for line in lines if TELLING.search(line)]
        return " ".join((errors or lines or [""])[-1].split())[:LONGEST_SAID]
    return ""


def _tidied(root: Path) -> dict[str, Server]:
    """Answers the servers that run, after what is left of those that do not is cleared."""
    recorded = recorded_servers(root)
    living = {name: server for name, server in recorded.items() if server.lives}
    for name in [name for name in living if name in KINDS and not set(KINDS[name].after) <= set(living)]:
        del living[name]  # it knows only the address of the one that is gone
    _stop([server for name, server in recorded.items() if name not in living], root)
    record_servers(root, living.values())
    return living


def _stop(servers: Sequence[Server], root: Path) -> None:
    """Stops servers and all that they started, those that stand on others first."""
    upper = [server for server in servers if server.name in KINDS and KINDS[server.name].after]
    for some in (upper, [server for server in servers if server not in upper]):
        stop(some, root)
    for server in servers:
        if server.folder:
            remove_folder(Path(server.folder))


def _forget(root: Path, started: Mapping[str, _Starting]) -> None:
    record_servers(root, [server for name, server in recorded_servers(root).items() if name not in started])


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Lets one `up` or `down` at a time work on a root."""
    root.mkdir(parents=True, exist_ok=True)
    with open(os.open(root / "servers.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServersBusyError(f"another `kinora up` or `kinora down` works on `{root}`; hint: wait for it") from None
        yield
