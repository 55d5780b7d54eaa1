"""What a command finds in its environment: the servers that run on its root, and secrets from files that nobody else may read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.store.secret_files import SecretFileError
from components.store.servers import Server, process_started, record_servers
from components.store.telemetry import TELEMETRY_OFF
from flows.environment import quiet_environment

ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")


@pytest.fixture(autouse=True)
def environment_is_put_back() -> Iterator[None]:
    before = dict(os.environ)
    for name in ADDRESSES:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def run_servers(root: Path, **changes: object) -> None:
    """Writes this process down as all of a root's servers."""
    started = process_started(os.getpid())
    said = {"pid": os.getpid(), "started": started, "log": "log", "ready": True, **changes}
    record_servers(
        root,
        [
            Server(name="prefect", address="http://127.0.0.1:4200", **said),  # type: ignore[arg-type]
            Server(name="mlflow", address="http://127.0.0.1:5000", **said),  # type: ignore[arg-type]
            Server(name="ray", address="127.0.0.1:6379", dashboard="http://127.0.0.1:8265", **said),  # type: ignore[arg-type]
        ],
    )


def addresses() -> dict[str, str]:
    return {name: os.environ[name] for name in ADDRESSES if name in os.environ}


def test_the_servers_of_a_root_are_used_by_every_command_on_it(tmp_path: Path) -> None:
    run_servers(tmp_path)
    os.environ["RAY_AUTH_TOKEN"] = "of-another-cluster"
    quiet_environment(tmp_path)
    assert addresses() == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "RAY_ADDRESS": "127.0.0.1:6379",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "ray" / "token"),
    }


@pytest.mark.parametrize("changes", [{"started": 1.0}, {"ready": False}])
def test_servers_that_are_gone_or_not_up_yet_are_not_used(tmp_path: Path, changes: dict[str, object]) -> None:
    run_servers(tmp_path, **changes)
    quiet_environment(tmp_path)
    assert addresses() == {}


def test_what_a_person_named_comes_first(tmp_path: Path) -> None:
    run_servers(tmp_path)
    os.environ.update({"RAY_ADDRESS": "head:6379", "MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    quiet_environment(tmp_path)
    assert addresses() == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "RAY_ADDRESS": "head:6379",
    }


def test_the_jobs_api_of_our_own_head_is_let_in_by_our_own_token(tmp_path: Path) -> None:
    run_servers(tmp_path)
    os.environ["RAY_ADDRESS"] = "http://127.0.0.1:8265"
    quiet_environment(tmp_path)
    assert addresses()["RAY_ADDRESS"] == "http://127.0.0.1:8265"
    assert addresses()["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray" / "token")


@pytest.mark.parametrize("name", ["PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"])
def test_a_secret_is_taken_from_a_file_for_its_owner_alone(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hushed\n")
    secret.chmod(0o600)
    os.environ.pop(name, None)
    os.environ[f"{name}_FILE"] = str(secret)
    quiet_environment(tmp_path)
    assert os.environ[name] == "hushed"

    os.environ.pop(name)
    secret.chmod(0o604)
    with pytest.raises(SecretFileError, match=f"`{secret}` of `{name}_FILE` holds a secret that others .*; hint: `chmod 600 {secret}`"):
        quiet_environment(tmp_path)


def test_a_token_of_ray_that_others_may_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hushed")
    token.chmod(0o644)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    with pytest.raises(SecretFileError, match="hint: `chmod 600 "):
        quiet_environment(tmp_path)


def test_the_environment_is_quiet_stays_below_the_root_and_yields_to_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "OMP_WAIT_POLICY", *TELEMETRY_OFF):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    quiet_environment(tmp_path / "runs")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "runs" / "prefect")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED"] == "false"
    assert TELEMETRY_OFF.items() <= os.environ.items()
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "address", ["http://[", "localhost:4200/api", "http://:4200/api", "http://name:hushed@host:99999/api", "https://host:port/api"]
)
def test_an_address_of_prefect_that_is_none_is_refused_without_showing_it(tmp_path: Path, address: str) -> None:
    os.environ["PREFECT_API_URL"] = address
    with pytest.raises(ValueError, match="hint: it looks like") as refused:
        quiet_environment(tmp_path)
    assert address not in str(refused.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:4200/api", "https://name:word@prefect.example.org/api"])
def test_an_address_of_a_server_is_taken_as_it_is(tmp_path: Path, address: str) -> None:
    os.environ["PREFECT_API_URL"] = address
    quiet_environment(tmp_path)
    assert os.environ["PREFECT_API_URL"] == address
