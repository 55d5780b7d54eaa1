"""What a stage spends: CPU time of this process and of all it started, GPUs held, bytes that stay on the disk.

In a cluster the workers are on other machines, so CPUs that were reserved count in place of those that were busy.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from components.cluster.reserved import reserved_seconds
from components.cluster.session import ray_is_local


@dataclass(frozen=True)
class Spent:
    """What a stage cost.

    Attributes:
        core_seconds: busy ones, of the whole tree of processes; in a cluster those reserved for the workers and busy ones of the driver.
        gpu_seconds: GPUs held times seconds.
        num_bytes: by how much the project's folder grew.
        reserved: whether core_seconds are reserved ones.
    """

    core_seconds: float
    gpu_seconds: float
    num_bytes: int
    reserved: bool


class TreeTime:
    """CPU seconds of this process and its descendants since it was made; what a process used counts after its end too.

    Two sums, each of them at most the truth: the last that was seen of every process, which lacks what one did after it was last
    seen; and what the living and those that their parents waited for used, which lacks those that nobody waited for.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        own, waited = self._look()
        self._own_before, self._waited_before, self._most = own, waited, 0.0

    def sample(self) -> float:
        """Looks at all processes again and answers the seconds so far."""
        own, waited = self._look()
        self._most = max(self._most, own - self._own_before, waited - self._waited_before)
        return self._most

    def _look(self) -> tuple[float, float]:
        living = 0.0
        root = psutil.Process()
        for process in (root, *root.children(recursive=True)):
            try:
                times, started = process.cpu_times(), process.create_time()
            except psutil.Error:  # it ended in between
                continue
            self._seen[process.pid, started] = times.user + times.system
            living += times.user + times.system + times.children_user + times.children_system
        return sum(self._seen.values()), living


class Meter:
    """Measures what is spent from its making on."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._tree = TreeTime()
        self._bytes_before = folder_bytes(self._folders)
        self._reserved_before = reserved_seconds()

    def sample(self) -> float:
        """Takes note of the processes that live now, and answers the core-seconds of them so far."""
        return self._tree.sample()

    def spent(self) -> Spent:
        """Answers what was spent until now."""
        busy = self._tree.sample()
        cores, cards = (now - before for now, before in zip(reserved_seconds(), self._reserved_before, strict=True))
        in_cluster = not ray_is_local() and cores > 0
        grown = max(0, folder_bytes(self._folders) - self._bytes_before)
        return Spent(busy + cores if in_cluster else busy, cards, grown, in_cluster)


def folder_bytes(folders: Iterable[Path]) -> int:
    """Answers how much the files below some folders hold; what comes and goes meanwhile may or may not count."""
    total = 0
    waiting = [os.fspath(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
