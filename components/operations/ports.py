"""Ports of our own servers on this machine: whether one is free, who listens there, and one that is."""

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Collection

MARK = "KINORA_SERVERS_OF"  # in the environment of our servers: their root
LOOPBACK = "127.0.0.1"
RAY_WORKERS = range(10002, 20000)  # Ray gives these to its workers
DRAWS = 50


class PortTakenError(ValueError):
    """A port that cannot be listened to; the message says why and the way out."""


def free_port(taken: Collection[int] = ()) -> int:
    """Answers a port that nobody listens to now, none of `taken` and outside of those of Ray's workers."""
    for _ in range(DRAWS):
        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
        if port not in RAY_WORKERS and port not in taken:
            return port
    raise PortTakenError("this machine gives no free port outside 10002 to 19999; hint: name one of each server, `--prefect-port N`")


def chosen_ports(wanted: dict[str, int]) -> dict[str, int]:
    """Answers the port of each option; 0 stands for a free one.

    Raises:
        PortTakenError: two options name one port, somebody listens there, or it may not be used.
    """
    chosen: dict[str, int] = {}
    for option, port in wanted.items():
        twin = next((other for other, taken in chosen.items() if taken == port), None)
        if twin is not None:
            raise PortTakenError(f"`{twin}` and `{option}` are both {port}; hint: `{option} 0` takes a free port")
        if port in RAY_WORKERS:
            raise PortTakenError(
                f"`{option} {port}` is among 10002 to 19999, which Ray's workers use; hint: `{option} 0` takes a free port"
            )
        if port:
            _check(option, port, LOOPBACK if option != "--ray-port" else "")  # Ray listens on all interfaces
        chosen[option] = port or free_port({*chosen.values(), *wanted.values()})
    return chosen


def _check(option: str, port: int, host: str) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise PortTakenError(f"port {port} belongs to the system; hint: `{option} N` with a port above 1023") from error
        raise PortTakenError(
            f"port {port} is taken by {listener(port)}; hint: stop it, or `{option} N` takes another port, `{option} 0` a free one"
        ) from error


def listener(port: int) -> str:
    """Answers who listens to a port, as far as this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return _described(connection.pid)
    return "a process that this user may not see"


def _described(pid: int) -> str:
    """Names a process by its first words; the later ones may hold what is nobody's business."""
    import psutil

    process = psutil.Process(pid)
    with contextlib.suppress(psutil.Error):
        program, *words = process.cmdline() or [process.name()]
        said = " ".join([os.path.basename(program), *itertools.takewhile(lambda word: "=" not in word, words[:4])])[:60]
        root = process.environ().get(MARK)
        ours = f", a server of Kinora's on `{root}`, which `kinora down --set root={root}` stops" if root else ""
        return f"`{said}` (process {pid}{ours})"
    return f"process {pid}"
