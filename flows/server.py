"""The Prefect server that deployments live on: where it is, and one sentence where it does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings


class NoServerError(ValueError):
    """No Prefect server answers; the message says where it should be."""


def address() -> str:
    """Answers where the server should be.

    Raises:
        NoServerError: nobody said.
    """
    named = get_current_settings().api.url
    if not named:
        raise NoServerError("no Prefect server is named; hint: `kinora up` starts one, or PREFECT_API_URL says where one runs")
    return str(named)


@contextmanager
def server() -> Iterator[SyncPrefectClient]:
    """Lends a client of the server that PREFECT_API_URL names; it starts none.

    Raises:
        NoServerError: there is no address, nothing answers there, or it wants another password.
    """
    named = address()
    with get_client(sync_client=True) as client:
        try:
            client.request("POST", "/deployments/count", json={}).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoServerError(_said(named, error)) from error
        yield client


def _said(named: str, fault: Exception) -> str:
    status = getattr(getattr(fault, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the Prefect server at {named} refuses this password; hint: PREFECT_API_AUTH_STRING is `user:password`"
    if status is not None:
        return f"what answers at {named} is no Prefect server, or not well (it says {status}); hint: the address ends in `/api`"
    return f"no Prefect server at {named}; hint: `kinora up` starts one, and PREFECT_API_URL says where another runs"
