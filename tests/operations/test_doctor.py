"""The doctor finds what is wrong with a machine, and says what to do about it."""

import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from components.operations import doctor
from components.operations.doctor import Check, examine
from tests.operations.pipeline import settings


def look(name: str, *overrides: str) -> Check:
    return next(check for check in examine(settings(*overrides)) if check.name == name)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_this_machine_can_run_the_tests(tmp_path: Path) -> None:
    failed = [check for check in examine(settings(f"root={tmp_path}")) if check.state == "fail"]
    assert failed == []


def test_what_is_not_well_says_what_to_do(tmp_path: Path) -> None:
    for check in examine(settings(f"root={tmp_path}", "cluster.cpus_per_worker=10000", "cluster.object_store_bytes=9999999999999")):
        assert check.state in ("ok", "warn", "fail")
        assert check.hint or check.state == "ok"


@pytest.mark.parametrize(("version", "state"), [("0.150.0", "ok"), ("0.151.0", "fail"), ("0.165.0", "fail"), (None, "fail")])
def test_a_fastapi_that_breaks_prefects_server_is_found(monkeypatch: pytest.MonkeyPatch, version: str | None, state: str) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["fastapi<0.151,>=0.139", "pytest; extra == 'dev'"])
    monkeypatch.setattr(doctor, "_version", lambda name: version)
    assert [check.state for check in doctor._packages()] == [state]


def test_an_unbuilt_installation_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", absent)
    assert [check.state for check in doctor._packages()] == ["warn"]


@pytest.mark.parametrize(
    ("torch", "vision", "wanted", "state"),
    [
        ("2.15.0", "0.29.2", "torch>=2.14", "ok"),
        ("2.13.0+cpu", "0.28.0+cpu", "torch==2.13.0", "ok"),
        ("2.13.0+cpu", "0.28.0", "torch==2.13.0", "warn"),
        ("2.15.0", "0.28.0", "torch==2.13.0", "fail"),
        ("2.15.0", None, "torch", "fail"),
    ],
)
def test_torch_and_torchvision_must_be_a_pair(
    monkeypatch: pytest.MonkeyPatch, torch: str, vision: str | None, wanted: str, state: str
) -> None:
    monkeypatch.setattr(doctor, "_version", {"torch": torch, "torchvision": vision}.get)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy", wanted, "torchaudio"])
    assert doctor._torch_pair().state == state


def test_the_other_package_called_lance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.2.1")
    assert doctor._lance().state == "fail"


def test_a_server_that_answers_is_well_and_one_that_does_not_is_named(monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listening}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening}")
    assert look("PREFECT_API_URL").state == "ok"
    assert look("RAY_ADDRESS").state == "ok"
    away = look("MLFLOW_TRACKING_URI")
    assert (away.state, away.said) == ("fail", "127.0.0.1:1 does not answer")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("http://tracker:5000", ("tracker", 5000)),
        ("https://tracker/api", ("tracker", 443)),
        ("ray://head:10001", ("head", 10001)),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("auto", (None, 0)),
        ("sqlite:////tmp/mlflow.db", (None, 0)),
        ("file:///tmp/mlruns", (None, 0)),
    ],
)
def test_an_address_leads_over_the_network_or_it_does_not(value: str, place: tuple[str | None, int]) -> None:
    assert doctor._host_and_port(value) == place


def test_a_root_below_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert look("root", f"root={tmp_path / 'file' / 'runs'}").state == "fail"


def test_a_profile_that_wants_a_gpu_fails_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.Path, "glob", lambda self, pattern: iter(()))
    assert look("gpu", "cluster.use_gpu=true").state == "fail"
    assert look("gpu").state == "ok"


@pytest.mark.parametrize(("there", "state"), [(1, "fail"), (5, "warn"), (20, "ok")])
def test_an_amount_is_enough_little_or_too_little(there: int, state: str) -> None:
    assert doctor._amount("disk", there * doctor.GIB, 10 * doctor.GIB, 2 * doctor.GIB, "free some").state == state
