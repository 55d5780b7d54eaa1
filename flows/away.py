"""Prefect's server may be away for a while: what a stage shows is let go or sent later, and its end is waited for."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from components.store.secret_names import without_password
from flows.embedded import lasting_address

logger = logging.getLogger("kinora")

AWAY = (httpx.HTTPError, PrefectException, ConnectionError)
QUIET_SECONDS = 15.0  # after a failure nothing more is shown for as long
LONGEST_SECONDS = 600.0
KNOCK_SECONDS = 5.0


class Shown:
    """Calls of Prefect's API that a stage can do without: a failure is one remark, and keeps the next calls quiet for a moment."""

    def __init__(self) -> None:
        self.silent_until = float("-inf")
        self.remarked = False

    def __call__(self, call: Callable[[], object]) -> bool:
        """Makes a call at once or not at all; answers whether it was heard."""
        if time.monotonic() < self.silent_until:
            return False
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                call()
        except AWAY as error:
            self.silent_until = time.monotonic() + QUIET_SECONDS
            if not self.remarked:
                self.remarked = True
                logger.warning("Prefect is away (%s); the stage goes on, and is shown once it is back", _one_line(error))
            return False
        return True


def wait_for_prefect() -> None:
    """Waits until a Prefect server that is named by its address answers, for ten minutes at most, with one remark.

    A flow that changes its state while the server is away would fail although its work is done.
    """
    address = lasting_address()
    if not address or _answers(address):  # the embedded server lives and dies with this process
        return
    logger.warning("Prefect is away; the work is done, and its state is told once `%s` answers", without_password(address))
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until and not _answers(address):
        time.sleep(1.0)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=KNOCK_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # whatever it says, somebody is there
    except OSError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
