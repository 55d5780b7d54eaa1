"""A port that cannot be had is one sentence with who has it and the way out."""

import os
import socket
from collections.abc import Iterator

import pytest

from components.operations.ports import RAY_WORKERS, PortTakenError, chosen_ports, free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_names_who_listens_and_the_way_out(taken: int) -> None:
    with pytest.raises(PortTakenError) as refused:
        chosen_ports({"--prefect-port": taken})
    said = str(refused.value)
    assert f"port {taken} is taken by" in said
    assert f"process {os.getpid()}" in said
    assert "hint: stop it, or `--prefect-port N` takes another port, `--prefect-port 0` a free one" in said


def test_ray_listens_on_all_interfaces_so_one_of_them_being_taken_is_enough(taken: int) -> None:
    with pytest.raises(PortTakenError):
        chosen_ports({"--ray-port": taken})


def test_zero_takes_ports_that_are_free_and_differ() -> None:
    chosen = chosen_ports(dict.fromkeys(("--prefect-port", "--mlflow-port", "--ray-port", "--dashboard-port"), 0))
    assert len(set(chosen.values())) == 4
    assert not set(chosen.values()) & {0, *RAY_WORKERS}
    with socket.create_server(("127.0.0.1", chosen["--mlflow-port"])):
        pass


def test_two_servers_cannot_share_a_port() -> None:
    port = free_port()
    with pytest.raises(PortTakenError, match="`--prefect-port` and `--mlflow-port` are both"):
        chosen_ports({"--prefect-port": port, "--mlflow-port": port})


def test_a_port_of_rays_workers_is_refused() -> None:
    with pytest.raises(PortTakenError, match="which Ray's workers use"):
        chosen_ports({"--ray-port": 10002})
