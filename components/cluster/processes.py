"""Processes of our own: whether they live, and their end; a stranger who got an old process number is left alone."""

import contextlib
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

LOOK_SECONDS = 0.1


def started_below(folder: Path) -> list[psutil.Process]:
    """Answers the processes of the Ray in a folder: those of this process's own children that name it, and all below them."""
    found: dict[int, psutil.Process] = {}
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in child.cmdline()):
                found |= {process.pid: process for process in (child, *child.children(recursive=True))}
    return list(found.values())


def end(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Gives processes that are about to end some seconds for it, then kills them."""
    processes = list(processes)
    wait(processes, seconds)
    for process in processes:
        send(process, signal.SIGKILL)
    wait(processes, seconds)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone; psutil compares the start, so a recycled number is not hit."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def wait(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Waits until processes are gone, at most some seconds."""
    until = time.monotonic() + seconds
    while any(lives(process) for process in processes) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def lives(process: psutil.Process) -> bool:
    """Answers whether a process runs; what its parent has not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
