"""Makes the tools of a run quiet and keeps their files inside the project root; called before anything heavy is imported."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from components.store.secret_files import read_secret
from components.store.secret_names import FROM_FILES
from components.store.servers import live_servers, servers_file
from components.store.telemetry import TELEMETRY_OFF


def quiet_environment(root: Path) -> None:
    """Sets what a person has not set: telemetry off, warnings low, caches and databases below `root`, idle threads asleep."""
    root = root.resolve()
    for name, value in {
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command says errors itself; the server keeps all logs
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",  # marking all runs that wait keeps SQLite locked for minutes
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "MPLCONFIGDIR": str(root / "cache" / "matplotlib"),
        "TRITON_CACHE_DIR": str(root / "cache" / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "cache" / "inductor"),
        "CUDA_CACHE_PATH": str(root / "cache" / "cuda"),
    }.items():
        os.environ.setdefault(name, value)
    _read_secrets()
    _check_addresses()
    if servers_file(root).exists():
        _use_servers(root)


def _read_secrets() -> None:
    """Takes secrets from the files that the environment names, and refuses a file that others may read."""
    for name in FROM_FILES:
        file = os.environ.get(f"{name}_FILE")
        if file and not os.environ.get(name):
            os.environ[name] = read_secret(file, f"{name}_FILE")
    if file := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        read_secret(file, "RAY_AUTH_TOKEN_PATH")


def _check_addresses() -> None:
    """Refuses an address that Prefect would answer with a stack when it is imported; what it says is not shown, it may hold a password.

    Raises:
        ValueError: PREFECT_API_URL is no address of a server.
    """
    if address := os.environ.get("PREFECT_API_URL"):
        try:
            parts = urlsplit(address)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("PREFECT_API_URL is not an address of a server; hint: it looks like `http://127.0.0.1:4200/api`")


def _use_servers(root: Path) -> None:
    """Sets the addresses that a person has not set to those of the servers that `kinora up` started on this root."""
    from components.operations.server_kinds import addresses

    servers = live_servers(root)
    ray = servers.get("ray")
    if ray is not None and os.environ.get("RAY_ADDRESS", ray.address) not in (ray.address, ray.dashboard):
        del servers["ray"]  # a cluster that a person named has a token of its own
    for name, value in addresses(servers, root).items():
        if name.startswith("RAY_AUTH"):
            os.environ[name] = value
            os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
        os.environ.setdefault(name, value)
