"""A command as a job of a Ray cluster, by Ray's Jobs API: started once, found again, followed to its end, stopped.

Never by Ray's client (`ray://`): a flow that loses the network for a moment loses nothing, since the job is the cluster's.
"""

import contextlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.cluster.following import AwayError, Ended, Job, follow_by
from components.cluster.session import RayUnavailableError, knock, read_token_anew

REQUEST_SECONDS = 30.0
STOP_SECONDS = 30.0
STATUS_CODE = re.compile(r"status code (\d+)")


class ClusterRefusedError(ValueError):
    """The cluster does not let this flow in, or has another Ray; the message says which and what to do."""


class JobLostError(RuntimeError):
    """The cluster knows nothing of a job that it ran, since its head was started anew."""


@dataclass(frozen=True)
class Listed:
    """A job as the cluster lists it."""

    id: str
    running: bool
    metadata: dict[str, str]


def open_client(address: str) -> Any:
    """Answers a client of a cluster's Jobs API.

    Args:
        address: of the head's dashboard, `http://HOST:8265`.

    Raises:
        RayUnavailableError: nothing answers there.
        ClusterRefusedError: the token is missing or wrong, or the cluster has another version of Ray.
    """
    place = urlsplit(address)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
    except ValueError:  # a word, or a number beyond all ports
        port = 0
    if place.scheme not in ("http", "https") or not place.hostname or not port:
        raise ClusterRefusedError(f"`{address}` is no address of Ray's Jobs API; hint: RAY_ADDRESS=http://HEAD:8265")
    knock(f"{place.hostname}:{port}", address)
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own, which gives up on a head that accepts a request and never answers."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **({"timeout": REQUEST_SECONDS} | options))

    logging.getLogger("ray.dashboard.modules").setLevel(logging.WARNING)
    if not ray.is_initialized():  # a driver that is connected goes on with the token it came with
        read_token_anew()
    try:
        with _named(address):
            client = Client(address)
    except AuthenticationError as error:
        raise ClusterRefusedError(
            f"the Ray cluster at `{address}` does not take this token; hint: name the file that holds the cluster's in RAY_AUTH_TOKEN_PATH"
        ) from error
    except _away() as error:
        raise RayUnavailableError(
            f"no Ray Jobs API answers at RAY_ADDRESS `{address}` ({_one_line(error)}); hint: it is where the head's dashboard listens"
        ) from error
    there = client._server_ray_version  # asked when it connected
    if there != ray.__version__:
        raise ClusterRefusedError(
            f"the cluster at `{address}` runs Ray {there} and this flow Ray {ray.__version__}; "
            f"hint: run both from the same image, or `pip install ray=={there}`"
        )
    return client


def shell_command(address: str, module: str, *arguments: str) -> str:
    """Answers what a job's shell runs: this very Python where the cluster is on this machine and has it, else the cluster's own."""
    words = shlex.join(["-m", module, *arguments])
    if urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1"):
        return f"exec python {words}"
    python = shlex.quote(sys.executable)  # missing there if the address is that of a tunnel or of a container
    return f'p={python}; [ -x "$p" ] || p=python; exec "$p" {words}'


def job_name(project: str, stage: str, key: str) -> str:
    """Answers the name that all tries of one piece of work share: other rows or settings give another."""
    return f"kinora-{project}-{stage}-{key[:16]}"


def submit(client: Any, name: str, command: str, metadata: Mapping[str, str]) -> Job:
    """Starts a command as the next try of `name`, or answers the try that still runs.

    Raises:
        RayUnavailableError: the cluster does not answer, or does not take the job.
    """
    with _answering():
        return _submitted(client, name, command, metadata)


def _submitted(client: Any, name: str, command: str, metadata: Mapping[str, str]) -> Job:
    attempt = 1
    while True:
        job_id = f"{name}-{attempt}"
        status = _status(client, job_id)
        if status is None:
            try:
                client.submit_job(entrypoint=command, submission_id=job_id, metadata=dict(metadata))
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                continue  # another flow was quicker
            return Job(job_id, attached=False)
        if not status.is_terminal():
            return Job(job_id, attached=True)
        attempt += 1


def follow(client: Any, job: Job, on_line: Callable[[str], None], watch: Callable[[], None]) -> Ended:
    """Follows a job to its end by its status and log.

    Raises:
        RayUnavailableError: the head stayed away; the job may still run.
        JobLostError: the head came back without the job.
    """

    def look() -> tuple[Ended | None, str]:
        try:
            found = client.get_job_info(job.id)  # before the log, so that the log of an ended job is whole
            log: str = client.get_job_logs(job.id)
        except _away() as error:
            if _code(error) == 404:
                raise JobLostError(f"the cluster forgot job `{job.id}`; hint: its head was started anew, run the same again") from error
            raise AwayError(_one_line(error)[:120]) from error
        return (Ended(str(found.status.value), found.message or "") if found.status.is_terminal() else None), log

    return follow_by(look, job.id, on_line, watch)


def stop(client: Any, job_id: str) -> bool:
    """Stops a job and waits, for a while, until it ended, and answers whether it did; one that is over or unknown is left alone."""
    try:
        client.stop_job(job_id)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until:
            status = _status(client, job_id)
            if status is None or status.is_terminal():
                return True
            time.sleep(0.5)
    except _away() as error:
        return _code(error) == 404
    return False


def jobs_of_ours(client: Any) -> list[Listed]:
    """Answers all jobs of the cluster that Kinora submitted.

    Raises:
        RayUnavailableError: the cluster does not answer.
    """
    with _answering():
        listed = client.list_jobs()
    return [
        Listed(found.submission_id, not found.status.is_terminal(), dict(found.metadata or {}))
        for found in listed
        if (found.submission_id or "").startswith("kinora-")
    ]


def _status(client: Any, job_id: str) -> Any:
    try:
        return client.get_job_status(job_id)
    except RuntimeError as error:
        if _code(error) == 404:
            return None
        raise


def _away() -> tuple[type[Exception], ...]:
    """The errors of a head that does not answer, or whose parts are not all up: Ray raises bare ones for any status code."""
    import requests

    return (RuntimeError, ConnectionError, requests.exceptions.RequestException)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except _away() as error:
        hint = "the same command finds its jobs again, once the head answers"
        raise RayUnavailableError(f"the Ray cluster did not do what it was asked ({_one_line(error)}); hint: {hint}") from error


def _code(error: BaseException) -> int | None:
    found = STATUS_CODE.search(str(error))
    return int(found[1]) if found else None


@contextlib.contextmanager
def _named(address: str) -> Iterator[None]:
    """Lets the address given be the one that counts: Ray's client would follow RAY_ADDRESS instead."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        os.environ.pop(name, None) if before is None else os.environ.__setitem__(name, before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
