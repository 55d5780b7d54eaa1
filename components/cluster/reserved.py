"""What this process holds of Ray's CPUs and GPUs, at most, times how long: what a stage costs where its workers run elsewhere.

An elastic training counts as its largest group for as long as it runs, also while it works with fewer or waits for room.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class _Ledger:
    """CPU- and GPU-seconds of reservations that ended, and those that are held now."""

    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    held: dict[int, tuple[float, float, float]] = field(default_factory=dict)  # number -> since, CPUs, GPUs
    count: int = 0


_ledger = _Ledger()
_lock = threading.Lock()


def hold(cpus: float, gpus: float) -> Callable[[], None]:
    """Notes that so much of Ray is held from now on; call the answer when it is given back."""
    with _lock:
        _ledger.count += 1
        number = _ledger.count
        _ledger.held[number] = (time.monotonic(), cpus, gpus)

    def release() -> None:
        with _lock:
            since, cores, cards = _ledger.held.pop(number, (time.monotonic(), 0.0, 0.0))
            _ledger.core_seconds += cores * (time.monotonic() - since)
            _ledger.gpu_seconds += cards * (time.monotonic() - since)

    return release


def reserved_seconds() -> tuple[float, float]:
    """Answers the CPU-seconds and GPU-seconds that this process has held so far."""
    with _lock:
        now = time.monotonic()
        cores = sum(cpus * (now - since) for since, cpus, _ in _ledger.held.values())
        cards = sum(gpus * (now - since) for since, _, gpus in _ledger.held.values())
        return _ledger.core_seconds + cores, _ledger.gpu_seconds + cards
