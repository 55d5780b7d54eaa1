"""The Prefect server of one run: up before Prefect asks, away with its process, and one sentence where it cannot start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from components.cluster.processes import lives, wait
from flows import embedded

USING = """
import sys
from flows import embedded
embedded.start()
embedded.start()  # the same one
with embedded.used(lambda: print(embedded._server.process.pid, flush=True)):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL
    with get_client(sync_client=True) as client:
        print(client.api_healthcheck(), client.api_url == PREFECT_API_URL.value() + "/", embedded.lasting_address(), flush=True)
print(PREFECT_API_URL.value(), flush=True)
sys.stdin.read()
"""


def using(home: Path, **more: str) -> "subprocess.Popen[str]":
    """A process that starts a server, uses it, and then waits for its end."""
    from flows.environment import quiet_environment

    before = dict(os.environ)
    try:
        os.environ.pop("PREFECT_HOME", None)
        quiet_environment(home)
        variables = os.environ | more
    finally:
        os.environ.clear()
        os.environ.update(before)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", USING], env=variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_killed_process_takes_its_server_along(tmp_path: Path) -> None:
    user = using(tmp_path)
    assert user.stdout is not None
    server = psutil.Process(int(user.stdout.readline()))
    assert user.stdout.readline().split() == ["None", "True", "None"]  # no exception, our address, which nobody shall remember
    assert user.stdout.readline() == "None\n"
    assert {connection.laddr.ip for connection in server.net_connections("tcp")} == {"127.0.0.1"}
    assert os.getpgid(server.pid) != os.getpgid(user.pid)  # Ctrl-C in a terminal is not for it
    user.send_signal(signal.SIGKILL)
    user.communicate()
    wait([server], 20)
    assert not lives(server)


def test_a_server_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    nowhere = "sqlite+aiosqlite:////proc/nowhere/prefect.db"
    user = using(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=nowhere, PREFECT_SERVER_DATABASE_CONNECTION_URL=nowhere)
    _, said = user.communicate(timeout=120)
    assert said.splitlines()[-1].startswith("flows.embedded.EmbeddedServerError: Prefect's server ended with 3 as it started; hint: ")


@pytest.mark.parametrize("named", [True, False])
def test_who_has_a_server_or_a_profile_gets_no_other(named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    if named:
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    else:
        (tmp_path / "profiles.toml").write_text('active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("a server was started"))
    embedded.start()
    with embedded.used(lambda: pytest.fail("nothing is waited for")):
        pass
