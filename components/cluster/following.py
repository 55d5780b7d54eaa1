"""A job followed to its end: its log line by line, each line once, whatever the network does meanwhile."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from components.cluster.session import RayUnavailableError

logger = logging.getLogger("kinora")

POLL_SECONDS = 1.0
BYTES_EACH_SECOND = 500_000  # of a log that is read whole each time: a long one is asked for less often
AWAY_SECONDS = 120.0


class AwayError(RuntimeError):
    """The cluster does not answer just now."""


@dataclass(frozen=True)
class Job:
    """A job of a cluster; `attached` when another flow, or an earlier try of this one, had started it."""

    id: str
    attached: bool


@dataclass(frozen=True)
class Ended:
    """How a job ended: SUCCEEDED, FAILED or STOPPED, and what the cluster says of it."""

    status: str
    message: str


def follow_by(
    look: Callable[[], tuple[Ended | None, str]], job_id: str, on_line: Callable[[str], None], watch: Callable[[], None]
) -> Ended:
    """Follows a job to its end; the cluster may be away for two minutes.

    Args:
        look: answers how the job ended, None while it runs, and then its whole log so far; or raises AwayError.
        on_line: called with each line of the log once, in order, also after the cluster was away.
        watch: called before every look; what it raises ends the following, not the job.

    Raises:
        RayUnavailableError: the cluster stayed away; the job may still run.
    """
    read, since = 0, 0.0
    while True:
        watch()
        try:
            ended, log = look()
        except AwayError as error:
            if not since:
                since = time.monotonic()
                logger.warning("the cluster is away (%s); its job goes on, and is waited for", error)
            elif time.monotonic() - since > AWAY_SECONDS:
                hint = f"once it is back the same command finds job `{job_id}` again"
                raise RayUnavailableError(f"the cluster stayed away for {AWAY_SECONDS:.0f} s; hint: {hint}") from error
            time.sleep(POLL_SECONDS)
            continue
        since = 0.0
        whole = len(log) if ended else log.rfind("\n") + 1
        for line in log[read:whole].splitlines():
            on_line(line)
        read = max(read, whole)
        if ended:
            return ended
        time.sleep(POLL_SECONDS + len(log) / BYTES_EACH_SECOND)
