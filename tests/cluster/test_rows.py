import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cluster.rows import StageFailedError, _Host, map_batches
from components.store import mirror
from components.store.project import Project
from tests.cluster.stages import Double, Refuses


class Weighs:
    """A stage that loads a file of its project's models."""

    def __init__(self, path: str) -> None:
        self.weights = Path(path).read_text()

    def __call__(self, batch: dict) -> str:
        return self.weights


def test_an_actor_of_another_machine_has_the_models_of_its_project(tmp_path: Path):
    here, there = (Project(tmp_path / name, "films", f"file://{tmp_path}/storage") for name in "ab")
    model = here.model("train_vae", "k") / "vae.txt"
    model.parent.mkdir(parents=True)
    model.write_text("weights")
    mirror.push(here)
    actor = _Host(Weighs.__module__, "Weighs", (str(there.model("train_vae", "k") / "vae.txt"),), there)
    assert actor.apply({}) == "weights"


def batches(count: int, **more: dict) -> Iterator[dict]:
    for index in range(count):
        yield {"value": index} | more.get(f"at_{index}", {})


def run(count: int, folder: Path, num_actors: int = 2, **more: dict) -> list[tuple[int, dict]]:
    return list(map_batches(Double, (2, str(folder)), batches(count, **more), num_actors=num_actors, cpus_per_actor=0.5))


def assert_whole(found: list[tuple[int, dict]], count: int) -> None:
    assert sorted(index for index, _ in found) == list(range(count))
    assert all(result["value"] == 2 * index for index, result in found)


def test_without_actors_it_is_a_plain_loop(tmp_path: Path):
    found = run(5, tmp_path, num_actors=0)
    assert [index for index, _ in found] == list(range(5))
    assert_whole(found, 5)
    assert {result["pid"] for _, result in found} == {os.getpid()}


def test_all_batches_come_back_once_from_other_processes(ray: Path, tmp_path: Path):
    found = run(21, tmp_path, **{f"at_{index}": {"sleep": 0.05} for index in range(21)})
    assert_whole(found, 21)
    assert os.getpid() not in {result["pid"] for _, result in found}


@pytest.mark.slow
def test_no_batch_is_no_result(ray: Path, tmp_path: Path):
    assert run(0, tmp_path, num_actors=1) == []


def test_an_actor_killed_by_its_batch_loses_and_doubles_nothing(ray: Path, tmp_path: Path):
    assert_whole(run(9, tmp_path, at_4={"kill": "once"}), 9)
    assert (tmp_path / "killed").exists()


@pytest.mark.slow
def test_an_actor_killed_from_outside_loses_and_doubles_nothing(ray: Path, tmp_path: Path):
    found = []
    stream = map_batches(
        Double, (2, str(tmp_path)), batches(12, **{f"at_{i}": {"sleep": 0.1} for i in range(12)}), num_actors=1, cpus_per_actor=1
    )
    for index, result in stream:
        found.append((index, result))
        if len(found) == 3:
            os.kill(result["pid"], signal.SIGKILL)
    assert_whole(found, 12)
    assert len({result["pid"] for _, result in found}) == 2


@pytest.mark.slow
def test_the_source_is_read_only_a_little_ahead(ray: Path, tmp_path: Path):
    read = []

    def source() -> Iterator[dict]:
        for index in range(50):
            read.append(index)
            yield {"value": index}

    stream = map_batches(Double, (2, str(tmp_path)), source(), num_actors=2, cpus_per_actor=0.5)
    for count, _ in enumerate(stream, start=1):
        assert len(read) <= count + 5
        if count == 10:
            break
    stream.close()
    assert len(read) < 20


@pytest.mark.slow
def test_more_actors_than_cpus_still_finish(ray: Path, tmp_path: Path):
    assert_whole(list(map_batches(Double, (2, str(tmp_path)), batches(6), num_actors=8, cpus_per_actor=1)), 6)


def test_errors_come_back_as_one_sentence(ray: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^a batch that cannot be doubled$"):
        run(3, tmp_path, num_actors=1, at_1={"raise": True})
    with pytest.raises(ValueError, match=r"^these weights are not here$"):
        list(map_batches(Refuses, (), batches(1), num_actors=1, cpus_per_actor=1))
    with pytest.raises(ValueError, match="asks for 64 CPUs"):
        list(map_batches(Double, (2, str(tmp_path)), batches(1), num_actors=1, cpus_per_actor=64))


@pytest.mark.slow
def test_a_batch_that_always_kills_ends_the_run_with_a_hint(ray: Path, tmp_path: Path):
    with pytest.raises(StageFailedError, match="died 5 times; hint:"):
        run(2, tmp_path, num_actors=1, at_0={"kill": "always"})
