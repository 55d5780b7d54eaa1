"""Looks at the machine and the installation, and says for each thing whether it is well and what to do when it is not."""

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from components.operations import security
from components.operations.check import Check
from components.operations.check import version as _version
from components.operations.tools import tools
from components.sections import Config

GIB = 2**30
OLDEST_PYTHON = (3, 11)
DISK_WANTED, DISK_NEEDED = 10 * GIB, 2 * GIB
MEMORY_WANTED, MEMORY_NEEDED = 8 * GIB, 4 * GIB
OPEN_FILES_WANTED = 4096
CONNECT_SECONDS = 3.0
ADDRESSES = {"PREFECT_API_URL": "flows", "MLFLOW_TRACKING_URI": "models and metrics", "RAY_ADDRESS": "workers"}


def examine(config: Config) -> list[Check]:
    """Answers every check of this machine for these settings; imports neither torch, Ray, Prefect nor MLflow."""
    root = Path(config.root)
    looks: tuple[Callable[[], Check | Iterator[Check]], ...] = (
        _python,
        _packages,
        _torch_pair,
        _lance,
        lambda: _processors(config),
        _memory,
        lambda: _disk(root),
        lambda: _writable(root),
        lambda: _shared_memory(config),
        _open_files,
        lambda: _gpu(config),
        lambda: tools(config),
        _codec,
        _addresses,
        security.known_holes,
        lambda: security.secrets(root),
        security.telemetry,
        lambda: security.own_servers(root),
        security.named_servers,
        lambda: security.clock(root),
        lambda: _storage(config),
    )
    found: list[Check] = []
    for look in looks:
        seen = look()
        found.extend([seen] if isinstance(seen, Check) else seen)
    return found


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("python", "fail", version, "Kinora needs Python 3.11 or newer; `make setup PYTHON=python3.11`")
    return Check("python", "ok", version)


def _packages() -> Iterator[Check]:
    """Every requirement of Kinora's own metadata against what is installed; fastapi's ceiling is one of them."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("kinora") or []]
    except metadata.PackageNotFoundError:
        yield Check("packages", "warn", "kinora itself is not installed", "`make setup` installs it with the versions that fit")
        return
    wrong = 0
    for wanted in requirements:
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = _version(wanted.name)
        if there is None or not wanted.specifier.contains(there, prereleases=True):
            wrong += 1
            yield Check(
                "packages", "fail", f"{wanted.name} is {there or 'missing'}, not {wanted.specifier}", "`make setup` installs what fits"
            )
    if not wrong:
        yield Check("packages", "ok", f"{len(requirements)} requirements met")


def _torch_pair() -> Check:
    from packaging.requirements import Requirement
    from packaging.version import Version

    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        return Check("torch", "fail", f"torch {torch or 'missing'}, torchvision {vision or 'missing'}", "`make setup`")
    said = f"torch {torch}, torchvision {vision}"
    wanted = [Requirement(line) for line in metadata.requires("torchvision") or [] if re.match(r"torch\b(?!\w)", line)]
    if any(not need.specifier.contains(Version(torch).public, prereleases=True) for need in wanted):
        return Check("torch", "fail", said, f"torchvision wants {wanted[0]}; install the two as a pair, `make setup` does")
    if ("+cpu" in torch) != ("+cpu" in vision):
        return Check("torch", "warn", said, "one is a CPU build and one is not; install both from the same index")
    return Check("torch", "ok", said)


def _lance() -> Check:
    if _version("lance") is not None:
        return Check("lance", "fail", "the package `lance` hides pylance", "`uv pip uninstall lance`, then `make setup`")
    return Check("lance", "ok", f"pylance {_version('pylance')}")


def _processors(config: Config) -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = f"{cores} cores"
    wanted = config.cluster.num_workers * config.cluster.cpus_per_worker
    if cores < wanted and not os.environ.get("RAY_ADDRESS"):
        return Check("processors", "warn", said, f"training asks for {wanted}; `--set cluster.cpus_per_worker={cores}`")
    return Check("processors", "ok", said)


def _memory() -> Check:
    import psutil

    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return _amount("memory", total, MEMORY_WANTED, MEMORY_NEEDED, "close other programs, or use a smaller profile")


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(_nearest(root)).free
    return _amount("disk", free, DISK_WANTED, DISK_NEEDED, f"free some space, or `--set root=FOLDER` moves `{root}` elsewhere")


def _writable(root: Path) -> Check:
    place = _nearest(root)
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return Check("root", "ok", f"{root.resolve()} can be written")
    except OSError as error:
        return Check("root", "fail", f"{place}: {error.strerror}", "`--set root=FOLDER` moves all runs elsewhere")


def _shared_memory(config: Config) -> Check:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return Check("shared memory", "warn", "/dev/shm is not there", "Ray falls back to slower files")
    free = shutil.disk_usage(shared).free
    wanted = config.cluster.object_store_bytes
    if free < wanted:
        hint = f"`--shm-size={wanted / GIB:.1f}g` in a container, or a smaller `cluster.object_store_bytes`"
        return Check("shared memory", "warn", f"{free / GIB:.1f} GiB free, Ray is set to {wanted / GIB:.1f}", hint)
    return Check("shared memory", "ok", f"{free / GIB:.1f} GiB free")


def _open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_WANTED and soft != resource.RLIM_INFINITY:
        return Check("open files", "warn", f"at most {soft}", f"`ulimit -n {min(hard, 65536) if hard > 0 else 65536}` before a run")
    return Check("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def _gpu(config: Config) -> Check:
    cards = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    if config.cluster.use_gpu and not cards and not os.environ.get("RAY_ADDRESS"):
        return Check(
            "gpu", "fail", "none here, and the profile asks for one", "`--profile laptop`, or RAY_ADDRESS of a cluster that has one"
        )
    if cards and not config.cluster.use_gpu:
        return Check("gpu", "ok", f"{len(cards)} here, not used", "`--profile gpu` uses them")
    return Check("gpu", "ok", f"{len(cards)} here" if cards else "none; this profile needs none")


def _codec() -> Check:
    try:
        import numpy as np

        from components.media.write import encode_clip

        encoded = encode_clip(np.zeros((2, 16, 16, 3), np.uint8), 8)
        return Check("codec", "ok", f"H.264 encodes ({len(encoded)} bytes of test)")
    except (ImportError, OSError, ValueError) as error:
        return Check("codec", "fail", f"H.264 does not encode: {error}", "reinstall PyAV, whose wheels bring libx264: `make setup`")


def _storage(config: Config) -> Iterator[Check]:
    """Tries whether a storage lets only one of two writers have a name, which every commit of a table stands on."""
    storage = config.cluster.storage
    if storage is None:
        return
    from components.store.conditional_writes import check

    what, _, hint = (check(storage) or "").partition("; hint: ")
    if what:
        yield Check("storage", "fail", what, hint)
    else:
        yield Check("storage", "ok", f"{storage} keeps conditional writes")


def _addresses() -> Iterator[Check]:
    for variable, use in ADDRESSES.items():
        value = os.environ.get(variable, "")
        host, port = _host_and_port(value)
        if not value:
            yield Check(variable, "ok", f"not set; Kinora keeps {use} on this machine")
        elif host is None:
            yield Check(variable, "ok", value)
        elif _answers(host, port):
            yield Check(variable, "ok", f"{host}:{port} answers")
        else:
            yield Check(variable, "fail", f"{host}:{port} does not answer", f"start that server, or unset {variable} to keep {use} here")


def _host_and_port(value: str) -> tuple[str | None, int]:
    """Answers where an address leads over the network; None for a file, a database or a word such as `auto`."""
    ports = {"http": 80, "https": 443, "ray": 10001}
    split = urlsplit(value if "://" in value else f"ray://{value}")
    if split.scheme not in ports or ("://" not in value and ":" not in value):
        return None, 0
    try:
        return split.hostname, split.port or ports[split.scheme]
    except ValueError:
        return split.hostname, 0


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _amount(name: str, there: int, wanted: int, needed: int, hint: str) -> Check:
    said = f"{there / GIB:.1f} GiB"
    if there < needed:
        return Check(name, "fail", f"{said}, a run needs {needed / GIB:.0f}", hint)
    if there < wanted:
        return Check(name, "warn", f"{said}, {wanted / GIB:.0f} are better", hint)
    return Check(name, "ok", said)


def _nearest(path: Path) -> Path:
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())
