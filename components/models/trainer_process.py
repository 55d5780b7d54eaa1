"""How a process that trains waits and keeps memory: what has to be said before torch is loaded, or before the process begins."""

import os
from collections.abc import Mapping

SPIN_COUNT = "300000"  # turns of libgomp's waiting loop, about a millisecond
MALLOC = "GLIBC_TUNABLES"
KEPT = f"glibc.malloc.arena_max=1:glibc.malloc.trim_threshold={2**40}:glibc.malloc.mmap_threshold={2**25}"


def kept_memory(known: Mapping[str, str]) -> dict[str, str]:
    """Answers the variable by which glibc keeps freed memory, tensors below 32 MiB, for the process; none where a person has set it.

    A step frees nearly all that it made, and glibc would give it back, only for the next one to have it cleared page by page. The heaps of
    threads, in one of which Ray Train trains, are given back whatever is said of a threshold, hence one for all threads.
    """
    return {} if MALLOC in known else {MALLOC: KEPT}


def let_threads_wait_awake() -> None:
    """Asks libgomp, before torch loads it, to let idle threads spin for a moment.

    Threads that sleep between the small operations of a step wake too late; those of a training own their CPUs.
    """
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def environment(known: Mapping[str, str]) -> dict[str, str]:
    """Answers the variables that a process that trains begins with, beside others that are known."""
    awake = {name: value for name, value in known.items() if name != "OMP_WAIT_POLICY"} | {"GOMP_SPINCOUNT": SPIN_COUNT}
    return awake | kept_memory(known)
