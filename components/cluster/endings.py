"""Why a worker ended: whether it would end so again, and what there was too little of."""

import errno
from typing import Literal

MISTAKES = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
DISK_WORDS = ("no space left on device", "disk quota exceeded")
MEMORY_WORDS = ("out of memory", "can't allocate memory", "_status_alloc_failed")


def is_a_death(error: BaseException) -> bool:
    """Answers whether a worker's process ended without raising anything itself."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) or type(error).__name__ in ("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError")


def lacks(error: BaseException) -> Literal["memory", "disk"] | None:
    """Answers what a worker says that there was too little of."""
    if is_a_death(error):
        return None
    words = str(error).lower()
    if getattr(error, "errno", None) in DISK_ERRORS or any(some in words for some in DISK_WORDS):
        return "disk"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(some in words for some in MEMORY_WORDS)):
        return "memory"
    return None


def comes_again(error: BaseException) -> bool:
    """Answers whether a worker that is started again would end so again."""
    return isinstance(error, MISTAKES) or lacks(error) is not None


def raised(error: BaseException) -> BaseException:
    """Answers what a worker raised, without what Ray Train puts around it."""
    inner = getattr(error, "_base_exc", error)
    return inner if isinstance(inner, BaseException) else error
