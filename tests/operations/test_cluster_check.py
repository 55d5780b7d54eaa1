"""Nodes that differ from this machine are named with what differs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.cluster.nodes import Node, installed
from components.operations.cluster_check import examine_cluster, examine_node
from tests.flows.command import environment
from tests.operations.pipeline import settings

ALIKE = Node("10.0.0.2", installed(), 0.1, 99 * 2**30, 99 * 2**30, True, 0.0)


def test_a_node_like_this_machine_is_well(tmp_path: Path) -> None:
    (check,) = examine_node(ALIKE, settings(f"root={tmp_path}"))
    assert (check.name, check.state, check.said) == ("node 10.0.0.2", "ok", "the same versions as here")


def test_what_differs_is_named_with_the_way_out(tmp_path: Path) -> None:
    here = installed()
    other = replace(ALIKE, versions={**here, "ray": "2.56.0", "av": None}, clock_seconds=-60.0, sees_root=False, disk_bytes=2**20)
    checks = list(examine_node(other, settings(f"root={tmp_path}")))
    assert [check.state for check in checks] == ["fail", "fail", "warn", "fail"]
    assert checks[0].said == f"other versions: ray 2.56.0 (here {here['ray']}), av missing (here {here['av']})"
    assert "requirements.lock" in checks[0].hint
    assert all(check.hint for check in checks)


def test_a_node_needs_no_shared_folder_where_there_is_a_storage(tmp_path: Path) -> None:
    (check,) = examine_node(replace(ALIKE, sees_root=False), settings(f"root={tmp_path}", "cluster.storage=s3://films/kinora"))
    assert check.state == "ok"


def test_without_a_cluster_the_way_to_one_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (check,) = examine_cluster(settings(f"root={tmp_path}"))
    assert (check.state, check.said) == ("fail", "`RAY_ADDRESS` is not set")


CHECK = """
import sys
from components.config import load_config
from components.operations.cluster_check import examine_cluster
(check,) = examine_cluster(load_config(None, [f"root={sys.argv[1]}"]))
print(check.state, check.said)
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_cluster_that_cannot_be_reached_is_one_sentence(tmp_path: Path, address: str) -> None:
    command = [sys.executable, "-c", CHECK, str(tmp_path)]  # a process of its own: this one may have the Ray of other tests
    done = subprocess.run(command, env=environment(RAY_ADDRESS=address), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fail ")
    assert f"no Ray answers at RAY_ADDRESS `{address}`" in done.stdout
