"""What the doctor says of safety: known holes, secrets that others may read, telemetry, and servers that let anybody in."""

import base64
import contextlib
import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from components.cluster.head import head_refuses_strangers
from components.operations.check import Check, version
from components.store.secret_files import is_exposed
from components.store.secret_names import RAY_TOKEN, SECRETS
from components.store.servers import Server, live_servers, servers_file
from components.store.telemetry import switched_on

HOLES = {  # the oldest version without them
    "ray": ("2.56", "CVE-2026-57516, a pickle in `read_webdataset`, and token-less dashboards before 2.54"),
    "mlflow": ("3.17.2", "CVE-2026-116690 and others, code run by whoever reaches the server"),
    "torch": ("2.10", "CVE-2026-24747, code run by a checkpoint"),
}
SECRET_FILES = (
    "RAY_AUTH_TOKEN_PATH",
    "AWS_SHARED_CREDENTIALS_FILE",
    *(f"{name}_FILE" for name in SECRETS),
)  # beside all that end with _PASSWORD_FILE and the like
SECRET_ENDINGS = ("_PASSWORD_FILE", "_AUTH_STRING_FILE", "_TOKEN_FILE", "_SECRET_KEY_FILE")
AT_HOME = (".mlflow/credentials", ".ray/auth_token", ".aws/credentials")
WIDEST_CLOCK_SECONDS = 5.0
ASK_SECONDS = 5.0
QUESTIONS = {"PREFECT_API_URL": "/flows/filter", "MLFLOW_TRACKING_URI": "/api/2.0/mlflow/experiments/search?max_results=1"}
WAYS_IN = {
    "PREFECT_API_URL": "`PREFECT_SERVER_API_AUTH_STRING` of that server asks for a name and a password",
    "MLFLOW_TRACKING_URI": "`mlflow server --app-name basic-auth` asks for a name and a password",
}


def known_holes() -> Check:
    """Compares the libraries that were attacked before with their first safe versions."""
    from packaging.version import Version

    for package, (safe, hole) in HOLES.items():
        there = version(package)
        if there is not None and Version(there) < Version(safe):
            return Check(
                "known holes", "fail", f"{package} {there} has {hole}", f"{package} {safe} or newer; `make setup` installs what fits"
            )
    return Check("known holes", "ok", f"none in {', '.join(f'{package} {version(package)}' for package in HOLES)}")


def secrets(root: Path) -> Iterator[Check]:
    """Looks at the files that hold secrets, and for secrets in the environment."""
    files = {root.resolve() / "ray" / "token", servers_file(root.resolve()), *(Path.home() / place for place in AT_HOME)}
    for name, value in os.environ.items():
        if value and (name in SECRET_FILES or name.endswith(SECRET_ENDINGS)):
            files.add(Path(value))
    there = [path for path in sorted(files) if path.is_file()]
    open_to_others = [path for path in there if is_exposed(path)]
    for path in open_to_others:
        yield Check("secret files", "fail", f"others on this machine may read `{path}`", f"`chmod 600 {path}`")
    if not open_to_others:
        yield Check("secret files", "ok", f"{len(there)} here, each for its owner alone")
    if os.environ.get(RAY_TOKEN):
        hint = "write it into a file of mode 0600 and name that in `RAY_AUTH_TOKEN_PATH`"
        yield Check("secrets", "warn", f"`{RAY_TOKEN}` is in the environment, which every job of Ray may see", hint)


def telemetry() -> Check:
    """Looks whether somebody switched on what Kinora switches off."""
    loud = switched_on(os.environ)
    if not loud:
        return Check("telemetry", "ok", "off for Prefect, MLflow, Ray and Hugging Face")
    said = ", ".join(f"`{name}` is `{os.environ[name]}`" for name in loud)
    return Check("telemetry", "warn", said, f"`unset {' '.join(loud)}`, and Kinora switches it off")


def own_servers(root: Path) -> Iterator[Check]:
    """Looks at the servers that `kinora up` started: on which interfaces they listen, and whether Ray asks for its token."""
    for server in live_servers(root).values():
        wide = sorted(set(_listens_widely(server)))
        if server.name != "ray" and wide:
            yield Check(f"{server.name} of kinora up", "fail", f"listens on {wide[0]}", "`kinora down`, then `kinora up`")
        elif server.name == "ray":
            yield _asks_for_token("ray of kinora up", server.dashboard or "")
        else:
            yield Check(f"{server.name} of kinora up", "ok", f"runs on loopback{f', {server.address}' if server.address else ''}")


def named_servers() -> Iterator[Check]:
    """Looks whether the servers of the environment let in who has no password, unless only this machine reaches them."""
    for variable, question in QUESTIONS.items():
        address = os.environ.get(variable, "")
        if urlsplit(address).scheme not in ("http", "https"):
            continue
        status, seconds = _asked(f"{address.rstrip('/')}{question}", variable == "PREFECT_API_URL")
        if status is None:
            continue  # the check of addresses says so
        name = f"{variable} lets in"
        if status in (401, 403):
            yield _known_here(name, address, question, variable)
        elif is_loopback(urlsplit(address).hostname or ""):
            yield Check(name, "ok", "everybody on this machine, nobody else")
        else:
            yield Check(name, "fail", f"whoever reaches {urlsplit(address).hostname}, without a password", WAYS_IN[variable])
        if seconds is not None and abs(seconds) > WIDEST_CLOCK_SECONDS:
            yield Check("clock", "warn", f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} {address}", "set both by NTP")
    ray = os.environ.get("RAY_ADDRESS", "")
    if ray.startswith("http"):
        yield _asks_for_token("RAY_ADDRESS lets in", ray.rstrip("/"))


def clock(root: Path) -> Check:
    """Compares this machine's clock with that of the disk, which another machine may hold."""
    place = next(place for place in (root.resolve(), *root.resolve().parents) if place.is_dir())
    probe = place / f".clock.{os.getpid()}"
    try:
        probe.touch()
        apart = probe.stat().st_mtime - time.time()
    except OSError:
        return Check("clock", "ok", "not compared, nothing can be written")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    if abs(apart) > WIDEST_CLOCK_SECONDS:
        return Check("clock", "warn", f"the disk of `{place}` is {apart:+.0f} s from this machine", "set both by NTP")
    return Check("clock", "ok", "as the disk's")


def is_loopback(host: str) -> bool:
    """Answers whether a host is this machine, and nobody else reaches it there."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _listens_widely(server: Server) -> Iterator[str]:
    import psutil

    with contextlib.suppress(psutil.Error):
        first = psutil.Process(server.pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                        yield f"{connection.laddr.ip}:{connection.laddr.port}"


def _asks_for_token(name: str, dashboard: str) -> Check:
    refuses = head_refuses_strangers(dashboard)
    if refuses is None:
        return Check(name, "fail", f"{dashboard} does not answer", "its log says why; `kinora down`, then `kinora up` starts one anew")
    if not refuses:
        way = "`RAY_AUTH_MODE=token` and RAY_AUTH_TOKEN_PATH at its start"
        return Check(name, "fail", f"whoever reaches {dashboard}, and runs what they like there", way)
    return Check(name, "ok", "who has its token, and nobody else")


def _known_here(name: str, address: str, question: str, variable: str) -> Check:
    """Says whether the credentials of the environment are the right ones."""
    if variable == "PREFECT_API_URL":
        string, setting = os.environ.get("PREFECT_API_AUTH_STRING", ""), "PREFECT_API_AUTH_STRING"
    else:
        pair = [os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD")]
        string, setting = ":".join(pair) if all(pair) else "", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if not string:
        return Check(name, "ok", "who has a name and a password")
    status, _ = _asked(f"{address.rstrip('/')}{question}", variable == "PREFECT_API_URL", string)
    if status in (401, 403):
        return Check(name, "fail", f"not us: {setting} are not known there", "ask who runs that server for the right ones")
    return Check(name, "ok", "who has a name and a password, and ours are right")


def _asked(address: str, posts: bool, credentials: str | None = None) -> tuple[int | None, float | None]:
    """Answers the status of a request, and how many seconds the server's clock is ahead; None where nobody answers."""
    headers = {"Content-Type": "application/json"}
    if credentials is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    request = urllib.request.Request(address, b'{"limit": 1}' if posts else None, headers)
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_loopback(urlsplit(address).hostname or "") else []))
    try:
        with opener.open(request, timeout=ASK_SECONDS) as answer:
            return answer.status, _ahead(answer.headers.get("Date"))
    except urllib.error.HTTPError as error:
        return error.code, _ahead(error.headers.get("Date"))
    except (OSError, ValueError, http.client.HTTPException):
        return None, None


def _ahead(date: str | None) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    return None
