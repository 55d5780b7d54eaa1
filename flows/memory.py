"""The peak memory of a run: the sum of PSS over this process and all it started, so shared pages count once."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_SECONDS = 2.0


@dataclass
class Peak:
    """The largest sum seen so far; 0 where the system does not tell PSS."""

    num_bytes: int = 0


@contextlib.contextmanager
def watched_memory() -> Iterator[Peak]:
    """Samples memory beside the block."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(EVERY_SECONDS):
            peak.num_bytes = max(peak.num_bytes, tree_pss())

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def tree_pss() -> int:
    """Answers the bytes that this process and its descendants hold now."""
    here = psutil.Process()
    return sum(_pss(process.pid) for process in (here, *here.children(recursive=True)))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
