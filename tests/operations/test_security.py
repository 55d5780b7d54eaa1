"""The doctor finds secrets that others may read, telemetry that is on, known holes, and servers that let anybody in."""

import base64
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from components.operations import doctor, security
from components.operations.check import Check
from components.store.servers import Server, process_started, record_servers
from components.store.telemetry import switched_on


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "PREFECT_API_URL",
        "MLFLOW_TRACKING_URI",
        "RAY_ADDRESS",
        "PREFECT_API_AUTH_STRING",
    ):
        monkeypatch.delenv(name, raising=False)


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts small servers that answer 200 to whoever has the password, or to everybody."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(password: str | None = None, ahead: float = 0.0) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wanted = f"Basic {base64.b64encode((password or '').encode()).decode()}"
                self.send_response_only(200 if password is None or self.headers.get("Authorization") == wanted else 401)
                self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"[]")

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def found(checks: Iterator[Check]) -> list[tuple[str, str]]:
    return [(check.name, check.state) for check in checks]


def test_a_secret_that_others_may_read_is_found_with_the_command_that_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    token, password, webhook = tmp_path / "ray" / "token", tmp_path / "password", tmp_path / "webhook"
    for path in (token, password, webhook):
        path.write_text("hushed")
        path.chmod(0o600)
    monkeypatch.setenv("KINORA_PROMOTER_PASSWORD_FILE", str(password))
    monkeypatch.setenv("KINORA_WEBHOOK_URL_FILE", str(webhook))
    assert found(security.secrets(tmp_path)) == [("secret files", "ok")]
    for path in (token, password, webhook):
        path.chmod(0o644)
    assert {check.hint for check in security.secrets(tmp_path)} == {f"`chmod 600 {path}`" for path in (token, password, webhook)}
    assert all("hushed" not in check.said for check in security.secrets(tmp_path))


def test_a_token_in_the_environment_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hushed")
    assert ("secrets", "warn") in found(security.secrets(tmp_path))


def test_telemetry_that_somebody_switched_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert security.telemetry().state == "ok"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY", "1")
    said = security.telemetry().said
    assert said == "`PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY` is `1`, `MLFLOW_DISABLE_TELEMETRY` is `false`"


@pytest.mark.parametrize(
    ("name", "value", "on"),
    [
        ("DO_NOT_TRACK", "TRUE", False),
        ("DO_NOT_TRACK", "0", True),
        ("HF_HUB_DISABLE_TELEMETRY", "yes", False),
        ("HF_HUB_DISABLE_TELEMETRY", "", True),
        ("RAY_USAGE_STATS_ENABLED", "False", False),
        ("RAY_USAGE_STATS_ENABLED", "1", True),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "0", False),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "perhaps", True),
    ],
)
def test_off_is_off_however_it_is_written(name: str, value: str, on: bool) -> None:
    assert switched_on({name: value}) == ([name] if on else [])


def test_no_check_shows_the_password_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:hush%40ed@db/mlflow")
    found = next(check for check in doctor._addresses() if check.name == "MLFLOW_TRACKING_URI")
    assert found.said == "postgresql://mlflow:***@db/mlflow"


@pytest.mark.parametrize(
    ("package", "there", "state"),
    [("ray", "2.55.1", "fail"), ("ray", "2.56.0", "ok"), ("mlflow", "3.17.1", "fail"), ("torch", "2.9.1+cpu", "fail")],
)
def test_versions_with_known_holes_fail(monkeypatch: pytest.MonkeyPatch, package: str, there: str, state: str) -> None:
    monkeypatch.setattr(security, "version", lambda name: there if name == package else "99")
    assert security.known_holes().state == state


def test_who_lets_everybody_in_may_do_so_on_loopback_alone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{serve()}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve("name:word"))
    assert [check.state for check in security.named_servers()] == ["ok", "ok"]
    monkeypatch.setattr(security, "is_loopback", lambda host: False)
    open_to_all, guarded = security.named_servers()
    assert (open_to_all.state, guarded.state) == ("fail", "ok")
    assert "PREFECT_SERVER_API_AUTH_STRING" in open_to_all.hint


@pytest.mark.parametrize(("string", "state"), [("name:word", "ok"), ("name:other", "fail")])
def test_credentials_that_a_server_does_not_know_are_found(serve: Serve, monkeypatch: pytest.MonkeyPatch, string: str, state: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{serve('name:word')}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", string)
    (check,) = security.named_servers()
    assert check.state == state
    assert "word" not in check.said.replace("password", "")


def test_a_clock_that_is_apart_is_found(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(ahead=3600))
    assert ("clock", "warn") in found(security.named_servers())
    assert security.clock(tmp_path / "not" / "there").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_dashboard_of_ray_that_asks_for_no_token_fails(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", serve())
    assert found(security.named_servers()) == [("RAY_ADDRESS lets in", "fail")]
    monkeypatch.setenv("RAY_ADDRESS", serve("name:word"))
    assert found(security.named_servers()) == [("RAY_ADDRESS lets in", "ok")]
    for nowhere in ("http://127.0.0.1:1", "http://head:port"):
        monkeypatch.setenv("RAY_ADDRESS", nowhere)
        assert found(security.named_servers()) == [("RAY_ADDRESS lets in", "fail")]


@pytest.mark.parametrize(("host", "state"), [("127.0.0.1", "ok"), ("0.0.0.0", "fail")])
def test_a_server_of_ours_that_listens_beyond_loopback_fails(tmp_path: Path, host: str, state: str) -> None:
    import subprocess
    import sys

    code = f"import socket, time; s = socket.create_server(({host!r}, 0)); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        started = process_started(process.pid)
        assert started is not None
        record_servers(tmp_path, [Server("mlflow", process.pid, started, "http://127.0.0.1:1", "log", ready=True)])
        assert found(security.own_servers(tmp_path)) == [("mlflow of kinora up", state)]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("mlflow", False),
    ],
)
def test_a_host_is_this_machine_alone_or_it_is_not(host: str, here: bool) -> None:
    assert security.is_loopback(host) == here
