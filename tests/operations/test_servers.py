"""`kinora up` and `kinora down`: once with small servers in place of ours, which start at once, and once with the real ones."""

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.operations import servers
from components.operations.ports import PortTakenError, free_port
from components.operations.server_kinds import Kind, Place, answers
from components.operations.servers import ServerFailedError, ServersBusyError, down, telling_line, up
from components.registry.models import register
from components.store.project import Project
from components.store.servers import live_servers, recorded_servers, servers_file
from tests.flows.command import kinora
from tests.generate.test_generator import folder  # noqa: F401  (a text-to-video folder of small untrained parts)
from tests.operations.pipeline import settings

PORTS = {"--prefect-port": 0, "--mlflow-port": 0, "--ray-port": 0, "--dashboard-port": 0}


def small(option: str, after: tuple[str, ...] = ()) -> Kind:
    """A server of files, which needs no start."""
    return Kind(
        command=lambda place: [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(place.ports[option])],
        environment=lambda place: {},
        secrets=(),
        is_well=lambda server, place: answers(server.address) is not None,
        after=after,
    )


BROKEN = Kind(
    command=lambda place: [sys.executable, "-c", "print('all is well'); raise SystemExit('error: the table is locked')"],
    environment=lambda place: {},
    secrets=(),
    is_well=lambda server, place: False,
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def two_small_servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    kinds = {"prefect": small("--prefect-port"), "mlflow": small("--mlflow-port", after=("prefect",))}
    monkeypatch.setattr(servers, "KINDS", kinds)
    monkeypatch.setattr(servers, "kinds_here", lambda: kinds)
    return kinds


def config(root: Path) -> Any:
    return settings(f"root={root}")


def test_servers_come_up_stay_up_and_go_down(two_small_servers: dict[str, Kind], tmp_path: Path, said: list[str]) -> None:
    running = {server.name: server for server in up(config(tmp_path), PORTS, said.append)}
    try:
        assert set(running) == {"prefect", "mlflow"}
        assert live_servers(tmp_path) == running
        assert all(answers(server.address) for server in running.values())
        assert said[0].startswith(f"prefect: up at {running['prefect'].address} in ")
        assert {stat.S_IMODE(path.stat().st_mode) for path in (servers_file(tmp_path), *(tmp_path / "logs").iterdir())} == {0o600}

        again: list[str] = []
        assert {server.name: server for server in up(config(tmp_path), PORTS, again.append)} == running
        assert [line.split(" (")[0] for line in again] == [f"{name}: runs already at {running[name].address}" for name in running]

        os.kill(running["mlflow"].pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(running["mlflow"].pid)], timeout=10)
        anew = {server.name: server for server in up(config(tmp_path), PORTS, said.append)}
        assert anew["prefect"] == running["prefect"]
        assert anew["mlflow"].pid != running["mlflow"].pid

        os.kill(anew["prefect"].pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(anew["prefect"].pid)], timeout=10)
        last = {server.name: server for server in up(config(tmp_path), PORTS, said.append)}
        assert last["mlflow"].pid != anew["mlflow"].pid  # it stands on the first, whose address may be another now
    finally:
        assert set(down(tmp_path, said.append)) == {"prefect", "mlflow"}
    assert recorded_servers(tmp_path) == {}
    assert not any(answers(server.address) for server in (*anew.values(), *last.values()))
    assert down(tmp_path, said.append) == []


def test_one_that_fails_takes_those_of_the_same_call_down_with_it(
    two_small_servers: dict[str, Kind], tmp_path: Path, said: list[str]
) -> None:
    two_small_servers["mlflow"] = BROKEN
    with pytest.raises(ServerFailedError) as failed:
        up(config(tmp_path), PORTS, said.append)
    assert str(failed.value) == (
        f"`mlflow` ended at once: error: the table is locked; hint: the whole log is `{tmp_path / 'logs' / 'mlflow.log'}`"
    )
    assert said[-1] == "stopped again: prefect, mlflow"
    assert recorded_servers(tmp_path) == {}
    assert [process for process in psutil.process_iter() if _belongs(process, tmp_path)] == []


def test_a_taken_port_starts_nothing(two_small_servers: dict[str, Kind], tmp_path: Path, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} is taken by"):
            up(config(tmp_path), PORTS | {"--mlflow-port": port}, said.append)
    assert said == []
    assert recorded_servers(tmp_path) == {}


def test_servers_of_another_root_are_named_with_the_way_to_stop_them(
    two_small_servers: dict[str, Kind], tmp_path: Path, said: list[str]
) -> None:
    one, two, port = tmp_path / "one", tmp_path / "two", free_port()
    up(config(one), PORTS | {"--prefect-port": port}, said.append)
    try:
        with pytest.raises(PortTakenError, match=f"a server of Kinora's on `{one}`, which `kinora down --set root={one}` stops"):
            up(config(two), PORTS | {"--prefect-port": port}, said.append)
        assert down(two, said.append) == []
        assert set(live_servers(one)) == {"prefect", "mlflow"}
    finally:
        down(one, said.append)


def test_two_calls_do_not_work_on_one_root(two_small_servers: dict[str, Kind], tmp_path: Path, said: list[str]) -> None:
    with servers._alone(tmp_path), pytest.raises(ServersBusyError):
        down(tmp_path, said.append)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("starting\n\x1b[31mAddress already in use\x1b[0m\nbye\n", "Address already in use"),
        ("starting\nstarted\n\n", "started"),
        ("", ""),
    ],
)
def test_the_line_of_a_log_that_tells_most(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text("error: of an earlier start\n" + log)
    assert telling_line(tmp_path / "log", len("error: of an earlier start\n")) == line


def test_a_server_gets_no_secret_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from components.operations.server_kinds import KINDS, environment_of
    from components.store.secret_names import SECRETS

    for name in SECRETS:
        monkeypatch.setenv(name, f"distinctive-{name}")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    place = Place(tmp_path, config(tmp_path), dict.fromkeys(PORTS, 1), {}, tmp_path)
    for name, kind in KINDS.items():
        variables = environment_of(kind, place)
        held = {key for key, value in variables.items() if value.startswith("distinctive-")}
        assert held == set(kind.secrets), name
        assert "distinctive-" not in " ".join(kind.command(place))
        assert variables.get("RAY_ADDRESS") is None
        assert variables["DO_NOT_TRACK"] == "1"
    assert KINDS["ray"].secrets == ()


def _belongs(process: psutil.Process, root: Path) -> bool:
    try:
        return process.environ().get("KINORA_SERVERS_OF") == str(root) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


HUSHED = {  # of a Prefect that asks for a password, of an MLflow and a Ray that ask for another one
    "PREFECT_SERVER_API_AUTH_STRING": "kinora:hushed-of-prefect",
    "PREFECT_API_AUTH_STRING": "kinora:hushed-of-prefect",
    "MLFLOW_TRACKING_USERNAME": "kinora",
    "MLFLOW_TRACKING_PASSWORD": "hushed-of-mlflow",
    "RAY_AUTH_TOKEN": "hushed-of-ray-0123456789abcdef0123456789abcdef",
}


@pytest.mark.slow
def test_a_root_is_served_and_left_as_it_was_found(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What was recorded before, during and after `up` is there at each of these times: runs, models, their files."""
    root = tmp_path / "runs"
    demo, other = Project(root, "demo"), Project(root, "other")
    register(demo, "text-to-video", folder, {}, {})
    ports = [f"{option}=0" for option in PORTS]
    for name, secret in HUSHED.items():
        monkeypatch.setenv(name, secret)
    try:
        started = kinora(tmp_path, "up", "--profile", "test", "--json", *ports)
        assert started.returncode == 0, started.stderr[-4000:]
        running = json.loads(started.stdout)
        prefect, mlflow, ray = (running[name] for name in ("prefect", "mlflow", "ray"))
        _only_the_token_opens(ray["dashboard"])
        assert _aliases(tmp_path, "demo") == {"candidate"}
        _generates(tmp_path, "demo")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow["address"])
        register(other, "text-to-video", folder, {}, {})
        found = answers(f"{mlflow['address']}/api/2.0/mlflow/registered-models/search")
        assert {model["name"] for model in found["registered_models"]} == {"demo-text-to-video", "other-text-to-video"}
        promoted = kinora(tmp_path, "promote", "--profile", "test")
        assert promoted.returncode == 0, promoted.stderr

        done = kinora(tmp_path, "run", "ingest", "--profile", "test", "--set", "world.num_films=2", "--set", "world.unseen_films=1")
        assert done.returncode == 0, done.stderr[-4000:]
        runs = answers(f"{prefect['address']}/api/flow_runs/filter", {})
        assert [(run["name"] != "", run["state"]["type"]) for run in runs] == [(True, "COMPLETED")]

        checked = kinora(tmp_path, "doctor", "--cluster", "--profile", "test", "--json")
        said = {check["name"]: check["state"] for check in json.loads(checked.stdout)}
        assert {said[f"{name} of kinora up"] for name in ("prefect", "mlflow", "ray")} == {"ok"}, checked.stdout
        assert said["cluster"] == said["PREFECT_API_URL lets in"] == "ok", checked.stdout
        _hushed(root, Path(ray["folder"]))

        again = kinora(tmp_path, "up", "--profile", "test", *ports)
        assert again.stderr.count("runs already") == len(running)
    finally:
        stopped = kinora(tmp_path, "down", "--profile", "test")
    assert stopped.returncode == 0, stopped.stderr
    assert [process for process in psutil.process_iter() if _belongs(process, root)] == []
    assert not any(ray["folder"] in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    assert not Path(ray["folder"]).exists()
    assert not any(answers(address) for address in (prefect["address"], mlflow["address"], ray["dashboard"]))
    assert not servers_file(root).exists()

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _aliases(tmp_path, "demo") == {"champion"}
    assert _aliases(tmp_path, "other") == {"candidate"}
    _generates(tmp_path, "other")
    nothing = kinora(tmp_path, "down")
    assert (nothing.returncode, nothing.stderr.startswith("no server of Kinora's runs")) == (0, True)


def _hushed(root: Path, temporary: Path) -> None:
    """No secret is in a file of a run, its logs and databases, in a command line, or in the environment of Ray's processes."""
    assert (root / "prefect").stat().st_mode & 0o777 == 0o700  # whose database keeps blocks and the key that opens them
    secrets = {secret.rpartition(":")[2].encode() for secret in HUSHED.values() if "hushed" in secret}
    secrets.add((root / "ray" / "token").read_bytes())
    for path in (*root.rglob("*"), *temporary.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # logs come and go
            if path.is_file() and not path.is_symlink() and path != root / "ray" / "token":
                held = path.read_bytes()
                assert not any(secret in held for secret in secrets), path
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = " ".join(process.cmdline())
            assert not any(secret.decode() in words for secret in secrets), words
            if str(temporary) in words or words.startswith("ray::"):
                held = Path(f"/proc/{process.pid}/environ").read_bytes()
                assert not any(secret in held for secret in secrets), words


def _aliases(place: Path, project: str) -> set[str]:
    shown = kinora(place, "show", "models", "--profile", "test", "--json", "--project", project)
    assert shown.returncode == 0, shown.stderr
    return {alias for model in json.loads(shown.stdout) for alias in model["aliases"]}


def _generates(place: Path, project: str) -> None:
    words = ("generate", "a red square", "-o", f"{project}.mp4", "--model", "candidate", "--steps", "1", "--project", project)
    made = kinora(place, *words)
    assert made.returncode == 0, made.stderr


def _only_the_token_opens(dashboard: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=10)
    assert refused.value.code == 401
