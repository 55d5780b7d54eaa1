"""Docker and kubectl are asked for only where something needs them, and what is missing of them is said with the way out."""

from pathlib import Path

import pytest

from components.operations.tools import tools
from tests.operations.pipeline import settings


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder of the path, still empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_machine_without_docker_is_well(programs: Path) -> None:
    (check,) = tools(settings())
    assert check.state == "ok"
    assert "only the servers of `infra/compose.yaml` need it" in check.said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('[ "$1" = info ]', "it has no `compose`"),
        ('[ "$1" = compose ]', "its daemon does not answer"),
    ],
)
def test_half_a_docker_is_named(programs: Path, body: str, said: str) -> None:
    program(programs, "docker", body)
    (check,) = tools(settings())
    assert (check.state, check.said) == ("warn", said)
    assert check.hint


def test_a_whole_docker_is_well(programs: Path) -> None:
    program(programs, "docker", "exit 0")
    (check,) = tools(settings())
    assert (check.state, check.hint) == ("ok", "")


def test_stages_in_kubernetes_need_a_kubectl_that_knows_rayjobs(programs: Path) -> None:
    wanted = settings("cluster.stages_in=kubernetes")
    assert [check.state for check in tools(wanted)] == ["ok", "fail"]
    program(programs, "kubectl", '[ "$2" = rayjobs ] && [ "$4" = kinora ]')
    assert [check.state for check in tools(wanted)] == ["ok", "ok"]
    program(programs, "kubectl", "exit 1")
    assert [check.state for check in tools(wanted)] == ["ok", "fail"]
