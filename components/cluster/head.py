"""The head of a Ray cluster as a process of its own: its command line, its environment, its folder, and whether it is well."""

import http.client
import importlib.util
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.cluster.session import LOCAL_ENVIRONMENT, python_path, token_file

KNOCK_SECONDS = 3.0


def head_command(port: int, dashboard_port: int, client_port: int, folder: Path, cluster: Any) -> list[str]:
    """Answers the command line of a head; its dashboard is on loopback, its other services let in who has the token.

    Args:
        client_port: of Ray's client server, which cannot be left out and is never used.
        folder: for Ray's sockets and logs, with a short path.
        cluster: the section of the settings; `num_cpus` and `object_store_bytes` count.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    command += ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}", f"--object-store-memory={cluster.object_store_bytes}"]
    if cluster.num_cpus:
        command.append(f"--num-cpus={cluster.num_cpus}")
    if importlib.util.find_spec("grpc") is not None:
        command.append(f"--ray-client-server-port={client_port}")
    return command


def head_environment(root: Path) -> dict[str, str]:
    """Answers what a head's environment has beside its parent's; no secret may be in it, since every job inherits it."""
    return LOCAL_ENVIRONMENT | token_environment(root) | {"PYTHONPATH": python_path()}


def token_environment(root: Path) -> dict[str, str]:
    """Answers the variables that let a process into the Ray of a root."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(root))}


def head_answers(dashboard: str, root: Path) -> bool:
    """Answers whether a head has a living node and lets its token's owner in."""
    token = token_file(root).read_text().strip()
    try:
        found = _get(f"{dashboard}/nodes?view=summary", {"Authorization": f"Bearer {token}"})
        return any(node["raylet"]["state"] == "ALIVE" for node in found["data"]["summary"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def head_refuses_strangers(dashboard: str) -> bool | None:
    """Answers whether a request without the token is refused; None where nobody answers."""
    try:
        _get(f"{dashboard}/api/jobs/", {})
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return False


def _get(address: str, headers: Mapping[str, str]) -> Any:
    """Asks a server of this machine, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, headers=dict(headers)), timeout=KNOCK_SECONDS) as answer:
        return json.load(answer)
