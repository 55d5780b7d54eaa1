"""What each server of `kinora up` is: its command line, its environment, and how it shows that it is well."""

import base64
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.cluster import head
from components.operations.ports import LOOPBACK, MARK, free_port
from components.sections import Config
from components.store.secret_names import DATABASES, SECRETS
from components.store.servers import Server
from components.store.telemetry import TELEMETRY_OFF

KNOCK_SECONDS = 3.0
SERVING, POOL = "flows.serving", "kinora"  # a module of the flows, and the work pool that it works on
ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
WHO_WE_ARE = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class Kind:
    """One kind of server, and whether it is well."""

    command: Callable[["Place"], list[str]]
    environment: Callable[["Place"], dict[str, str]]
    secrets: tuple[str, ...]  # of the environment, those that it is given
    is_well: Callable[[Server, "Place"], bool]
    after: tuple[str, ...] = ()  # which must be well before it starts
    attempts: int = 1


@dataclass(frozen=True)
class Place:
    """Where servers start: the root, its settings, the ports, and the addresses of those that are there."""

    root: Path
    config: Config
    ports: Mapping[str, int]
    servers: Mapping[str, Server]
    folder: Path | None = None  # of the Ray that starts

    def address(self, option: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[option]}"


def addresses(servers: Mapping[str, Server], root: Path) -> dict[str, str]:
    """Answers the variables that lead a process to these servers."""
    found = {}
    if "prefect" in servers:
        found["PREFECT_API_URL"] = f"{servers['prefect'].address}/api"
    if "mlflow" in servers:
        found["MLFLOW_TRACKING_URI"] = servers["mlflow"].address
    if "ray" in servers:
        found |= {"RAY_ADDRESS": servers["ray"].address} | head.token_environment(root)
    return found


def environment_of(kind: Kind, place: Place) -> dict[str, str]:
    """Answers the whole environment of a server: ours without addresses and without the secrets of others."""
    kept = {name: value for name, value in os.environ.items() if name not in ADDRESSES and (name not in SECRETS or name in kind.secrets)}
    return kept | TELEMETRY_OFF | {MARK: str(place.root)} | kind.environment(place)


def answers(address: str, question: Mapping[str, Any] | None = None) -> Any:
    """Answers what a server of this machine says, past any proxy, or None; only Prefect is asked questions."""
    headers = {"Content-Type": "application/json"}
    if question is not None and (string := os.environ.get("PREFECT_API_AUTH_STRING")):
        headers["Authorization"] = f"Basic {base64.b64encode(string.encode()).decode()}"
    body = None if question is None else json.dumps(question).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, body, headers), timeout=KNOCK_SECONDS) as answer:
            text = answer.read().decode()
    except (OSError, ValueError):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _serves(server: Server, place: Place) -> bool:
    """Answers whether Prefect's server has heard of the worker that carries the process number in its name."""
    found = answers(f"{place.servers['prefect'].address}/api/work_pools/{POOL}/workers/filter", {})
    return any(worker["name"].endswith(f"-{server.pid}") for worker in found or [])


def _prefect_command(place: Place) -> list[str]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--analytics-off"]
    return [*command, "--host", LOOPBACK, "--port", str(place.ports["--prefect-port"])]


def _mlflow_command(place: Place) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", LOOPBACK, "--port", str(place.ports["--mlflow-port"])]
    files = place.root / "mlartifacts"  # named by file addresses, so they are found when the server is down again
    return [
        *command,
        "--backend-store-uri",
        f"sqlite:///{place.root / 'mlflow.db'}",
        "--default-artifact-root",
        files.as_uri(),
        "--artifacts-destination",
        str(files),
    ]


def _ray_command(place: Place) -> list[str]:
    assert place.folder is not None
    client_port = free_port(place.ports.values())
    return head.head_command(place.ports["--ray-port"], place.ports["--dashboard-port"], client_port, place.folder, place.config.cluster)


def _serving_environment(place: Place) -> dict[str, str]:
    said = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO", "PYTHONUNBUFFERED": "1"}
    return said | {"PREFECT_HOME": str(place.root / "prefect")} | addresses(place.servers, place.root)


KINDS = {
    "prefect": Kind(
        command=_prefect_command,
        environment=lambda place: {
            "PREFECT_HOME": str(place.root / "prefect"),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # its log is where a person looks for the reason
            "PREFECT_UI_STATIC_DIRECTORY": str(place.root / "prefect" / "ui"),  # else it writes into its own package
        },
        secrets=("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", *(name for name in DATABASES if name.startswith("PREFECT"))),
        is_well=lambda server, place: answers(f"{server.address}/api/health") is not None,
    ),
    "mlflow": Kind(
        command=_mlflow_command,
        environment=lambda place: {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        secrets=("MLFLOW_FLASK_SERVER_SECRET_KEY",),
        is_well=lambda server, place: answers(f"{server.address}/health") is not None,
    ),
    "ray": Kind(
        command=_ray_command,
        environment=lambda place: head.head_environment(place.root),
        secrets=(),
        is_well=lambda server, place: head.head_answers(server.dashboard or "", place.root),
        attempts=3,  # on a busy machine its processes may miss the time that Ray gives them
    ),
    "serving": Kind(
        command=lambda place: [sys.executable, "-m", SERVING],
        environment=_serving_environment,
        secrets=WHO_WE_ARE,
        is_well=_serves,
        after=("prefect", "mlflow", "ray"),
    ),
}


def kinds_here() -> dict[str, Kind]:
    """Answers the kinds of server that this installation has."""
    return {name: kind for name, kind in KINDS.items() if name != "serving" or importlib.util.find_spec(SERVING) is not None}
