"""One Ray for one process: a cluster by RAY_ADDRESS, else a small local one that leaves nothing behind."""

import atexit
import contextlib
import functools
import importlib
import logging
import os
import secrets
import signal
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.cluster.folders import make_folder, remove_folder
from components.cluster.processes import end, started_below
from components.store.secret_names import RAY_TOKEN, SECRETS
from components.store.telemetry import TELEMETRY_OFF

logger = logging.getLogger("kinora")

KNOCK_SECONDS = 10
WORKERS_END_SECONDS = 10  # that the workers of a Ray of our own have to follow it
PATIENCE = {"RAY_gcs_server_port_wait_time_s": "10"}  # with a head that answered once
SHORT_OF_PATIENCE = {"RAY_py_gcs_connect_timeout_s": "5", "RAY_gcs_rpc_server_connect_timeout_s": "2"}  # of the first question to a head
REPOSITORY = Path(__file__).resolve().parent.parent.parent

WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads of one worker would steal the core of another
    "GOMP_SPINCOUNT": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
START_ATTEMPTS = 3
LOCAL_ENVIRONMENT = WORKER_ENVIRONMENT | {
    **TELEMETRY_OFF,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # each actor starts its own worker; idle ones only cost
    "RAY_enable_metrics_collection": "0",
    "RAY_health_check_period_ms": "1000",  # a head gives up a node that is gone after five checks
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine of our own is not taken away
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_gcs_server_port_wait_time_s": "120",
}


class RayUnavailableError(RuntimeError):
    """Ray did not start or could not be reached; the message says which and what to do."""


@dataclass
class _Session:
    """A running or starting Ray and who uses it."""

    address: str | None
    users: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    keeper: threading.Thread | None = None
    error: BaseException | None = None
    folder: Path | None = None


_lock = threading.Lock()
_current: _Session | None = None


@contextlib.contextmanager
def ray_session(config: Any, project_root: Path) -> Iterator[None]:
    """Lends a connected Ray; a second call in the same process shares the first one's.

    Args:
        config: the resolved settings; `cluster.num_cpus` and `cluster.object_store_bytes` count.
        project_root: keeps the token file, `<root>/ray/token`.

    Raises:
        RayUnavailableError: Ray did not start, or RAY_ADDRESS could not be reached.
    """
    session = _join(config, project_root)
    try:
        session.ready.wait()
        if isinstance(session.error, RayUnavailableError):
            raise session.error
        if session.error is not None:
            raise _explained(session) from session.error
        _take_sigterm_back()
        yield
    finally:
        _leave(session)


def _take_sigterm_back() -> None:
    """Gives SIGTERM back to whoever handles it in Python: a Ray that starts prints its own stack and ends the process instead."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def start_ray(config: Any, project_root: Path) -> None:
    """Starts Ray beside what this process does next; `ray_session` then waits for it, `stop_ray` ends it."""
    with _environment(LOCAL_ENVIRONMENT if not os.environ.get("RAY_ADDRESS") else {}):
        importlib.import_module("ray")  # here: two threads that import undo each other's filters of warnings
    _join(config, project_root)


def stop_ray() -> None:
    """Ends what `start_ray` began; without one it does nothing."""
    if _current is not None:
        _leave(_current)


def ray_is_local() -> bool:
    """Says whether the running Ray is this process's own."""
    return _current is not None and _current.address is None


def _join(config: Any, root: Path) -> _Session:
    global _current
    with _lock:
        if _current is None or _current.error is not None:
            session = _Session(address=os.environ.get("RAY_ADDRESS") or None)
            # Ray ties its processes to the life of the thread that starts them, so one thread of ours holds them
            session.keeper = threading.Thread(target=_keep, args=(session, config, Path(root)), name="ray-keeper", daemon=True)
            session.keeper.start()
            _current = session
        _current.users += 1
        return _current


def _leave(session: _Session) -> None:
    global _current
    with _lock:
        session.users -= 1
        if session.users > 0:
            return
        if _current is session:
            _current = None
    session.stop.set()
    if session.keeper is not None:
        session.keeper.join()


def _keep(session: _Session, config: Any, root: Path) -> None:
    try:
        if session.address:
            _check_address(session.address)
            _connect(session.address)
        else:
            _start_patiently(session, config.cluster, root)
    except Exception as error:
        session.error = error
    session.ready.set()
    session.stop.wait()
    _shut_down(session.folder)


def _start_patiently(session: _Session, cluster: Any, root: Path) -> None:
    """Starts a local Ray; on a busy machine its processes may miss the 30 seconds that Ray gives them, so it is tried again."""
    for attempt in range(1, START_ATTEMPTS + 1):
        session.folder = _new_folder()
        try:
            return _start_local(session.folder, cluster, root)
        except Exception as error:
            if attempt == START_ATTEMPTS:
                raise
            logger.warning("Ray did not start at once (%s), it is tried again", " ".join(str(error).split())[:120])
            _shut_down(session.folder)


def _explained(session: _Session) -> RayUnavailableError:
    cause = " ".join(str(session.error).split())[:300]
    if session.address and "ersion mismatch" in cause:
        return RayUnavailableError(
            f"the Ray at RAY_ADDRESS `{session.address}` is of another version ({cause}); "
            "hint: install the same `requirements.lock` and Python here and on all its nodes"
        )
    if session.address:
        return RayUnavailableError(
            f"no Ray answers at RAY_ADDRESS `{session.address}` ({cause}); "
            "hint: unset RAY_ADDRESS for a local one, or name the cluster's token in RAY_AUTH_TOKEN_PATH"
        )
    return RayUnavailableError(f"Ray did not start on this machine ({cause}); hint: `kinora doctor` says what is missing")


def _check_address(address: str) -> None:
    """Refuses an address that no driver can use, or where nobody listens."""
    if "://" in address:
        raise RayUnavailableError(
            f"RAY_ADDRESS `{address}` is one of Ray's Jobs API or client, and this run trains as a driver; "
            "hint: `--set cluster.stages_in=job`, or give the head's own address, HOST:6379"
        )
    knock(address, address)


def knock(place: str, address: str) -> None:
    """Asks whether anybody listens at HOST:PORT, before Ray does, which would try for minutes.

    Raises:
        RayUnavailableError: nobody does; it names the address as the person gave it.
    """
    host, _, port = place.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
        except OSError as error:
            raise RayUnavailableError(
                f"no Ray answers at RAY_ADDRESS `{address}` ({error.strerror or error}); hint: unset RAY_ADDRESS for a local one"
            ) from error


def _connect(address: str) -> None:
    import ray

    with _environment(SHORT_OF_PATIENCE):
        read_token_anew()  # with its settings
        _try_token(address)
    read_token_anew()
    variables = WORKER_ENVIRONMENT | {"PYTHONPATH": python_path()}
    os.environ.update({key: value for key, value in WORKER_ENVIRONMENT.items() if key.startswith("RAY_TRAIN")})
    with _environment({name: os.environ.get(name, seconds) for name, seconds in PATIENCE.items()}):
        ray.init(address=address, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level=logging.ERROR)


def _try_token(address: str) -> None:
    """Asks the head once whether it takes our token: Ray would ask for half a minute, and write a line each time.

    Raises:
        RayUnavailableError: it does not.
    """
    if address == "auto":  # which Ray finds by itself
        return
    from ray.exceptions import AuthenticationError

    raylet: Any = importlib.import_module("ray._raylet")
    try:
        with _quiet_stderr():
            raylet.GcsClient(address=address)
    except AuthenticationError as error:
        raise RayUnavailableError(
            f"the Ray cluster at RAY_ADDRESS `{address}` does not take this token; "
            "hint: name the file that holds the cluster's in RAY_AUTH_TOKEN_PATH"
        ) from error
    except Exception as error:  # Ray's own words for a head that is not one
        raise RayUnavailableError(
            f"no Ray answers at RAY_ADDRESS `{address}` ({' '.join(str(error).split())[:160]}); "
            "hint: it names where the head listens, HOST:6379"
        ) from error


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps what Ray's own code writes past Python from the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _start_local(folder: Path, cluster: Any, root: Path) -> None:
    """Starts Ray below `folder`; workers inherit their environment, so they need no runtime environment of their own."""
    os.environ.pop(RAY_TOKEN, None)  # it would win over the file, and every worker would see it
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray's processes turn into other programs at once
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(root))})
    with _environment(LOCAL_ENVIRONMENT | {"PYTHONPATH": python_path()}):
        import ray

        read_token_anew()
        with_dashboard = os.environ.get("KINORA_RAY_DASHBOARD") == "1"
        with _without_secrets(), contextlib.nullcontext() if with_dashboard else _without_extras():
            ray.init(
                address="local",
                num_cpus=cluster.num_cpus or max(2, len(os.sched_getaffinity(0))),
                object_store_memory=max(cluster.object_store_bytes, 80 * 2**20),
                include_dashboard=with_dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )


def read_token_anew() -> None:
    """Lets Ray read its token again, which it does once a process: an earlier session may have been another project's."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _without_extras() -> Iterator[None]:
    """Starts only what tasks and actors need: no API server, autoscaler or log forwarder, and the agent of a minimal install.

    Saves half of the start. These are Ray's internals of the pinned version; where they are missing Ray starts whole.
    """
    import ray._private.node as node
    import ray._private.parameter as parameter
    import ray._private.utils as utils

    swaps = {
        (parameter, "RayParams"): lambda old: functools.partial(old, no_monitor=True, include_log_monitor=False),
        (node.Node, "start_api_server"): lambda old: lambda self, **options: None,
        (utils, "get_dashboard_dependency_error"): lambda old: lambda: ImportError("left out"),
    }
    with _swapped(swaps):
        yield


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Starts workers with empty words in place of this process's secrets; their environment is that of the job that they run."""
    import ray._private.parameter as parameter

    hidden = {name: "" for name in SECRETS if name in os.environ}
    if hidden and not hasattr(parameter, "RayParams"):
        raise RayUnavailableError(
            f"this Ray has other insides than the pinned one, so its workers would see {', '.join(sorted(hidden))}; hint: `make setup`"
        )
    with _swapped({(parameter, "RayParams"): lambda old: functools.partial(old, env_vars=hidden)} if hidden else {}):
        yield


@contextlib.contextmanager
def _swapped(swaps: Mapping[tuple[Any, str], Callable[[Any], Any]]) -> Iterator[None]:
    """Replaces names of modules while the block lasts; where one of them is missing none is."""
    olds = {place: getattr(*place, None) for place in swaps}
    if None in olds.values():
        yield
        return
    for place, swap in swaps.items():
        setattr(*place, swap(olds[place]))
    try:
        yield
    finally:
        for place, old in olds.items():
            setattr(*place, old)


def _shut_down(folder: Path | None) -> None:
    """Ends Ray and waits for its last workers, which outlive their raylet a moment and would hold memory beside the next Ray."""
    import ray

    started = started_below(folder) if folder is not None else []
    with contextlib.suppress(Exception):  # whatever Ray says at its end, the folder goes
        ray.shutdown()
    end(started, WORKERS_END_SECONDS)
    if folder is not None:
        remove_folder(folder)


def token_file(root: Path) -> Path:
    """Answers the file that holds Ray's token, made on first use and readable by its owner alone."""
    path = Path(root).resolve() / "ray" / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or not path.read_text().strip():
        beside = path.with_name(f".token.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(beside, path) if not path.exists() else os.replace(beside, path)
        beside.unlink(missing_ok=True)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return path


def python_path() -> str:
    return os.pathsep.join(dict.fromkeys([str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


def _new_folder() -> Path:
    """Makes this session's temporary folder."""
    folder = make_folder()
    atexit.register(remove_folder, folder)
    return folder
