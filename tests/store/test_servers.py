"""What is written down of servers: read back, for the owner alone, and worth nothing once its process is gone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.store.servers import Server, live_servers, process_started, record_servers, recorded_servers, servers_file


def of_this_process(name: str = "prefect", **changes: object) -> Server:
    started = process_started(os.getpid())
    assert started is not None
    return Server(**{"name": name, "pid": os.getpid(), "started": started, "address": "http://127.0.0.1:4200", "log": "a.log", **changes})  # type: ignore[arg-type]


def test_servers_are_read_back_and_the_file_is_for_the_owner_alone(tmp_path: Path) -> None:
    servers = [of_this_process(ready=True), of_this_process("ray", dashboard="http://127.0.0.1:8265", folder="/tmp/kin-1")]
    record_servers(tmp_path, servers)
    assert list(recorded_servers(tmp_path).values()) == servers
    assert stat.S_IMODE(servers_file(tmp_path).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["servers.json"]


def test_a_server_counts_once_it_has_answered_and_while_its_process_is_the_same(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record_servers(
        tmp_path,
        [
            of_this_process("mlflow", ready=True),
            of_this_process("prefect", ready=False),
            of_this_process("ray", ready=True, started=1.0),  # its number went to another process
            of_this_process("serving", ready=True, pid=ended.pid),
        ],
    )
    assert set(live_servers(tmp_path)) == {"mlflow"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"prefect": 3}', '{"prefect": {"pid": 1}}'])
def test_a_file_that_nobody_can_read_counts_as_none(tmp_path: Path, text: str) -> None:
    servers_file(tmp_path).write_text(text)
    assert recorded_servers(tmp_path) == {}


def test_no_servers_leave_no_file(tmp_path: Path) -> None:
    record_servers(tmp_path, [of_this_process()])
    record_servers(tmp_path, [])
    record_servers(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
