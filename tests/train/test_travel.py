"""A training whose files lie in a storage goes on elsewhere from its newest whole checkpoint, all workers from the same one."""

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.store.storage import Storage
from components.train.checkpoint import Checkpoints, DifferentStepsError, newest_of_all
from components.train.context import TrainContext, of_worker
from components.train.travel import checkpoints_of, travels


def payload(root: Path, storage: str | None) -> dict[str, Any]:
    folder = root / "films/checkpoints/train_dit/k"
    return {"config": {"cluster": {"storage": storage}}, "root": str(root), "project": "films", "checkpoints": str(folder)}


@travels
def job(payload: Any, context: TrainContext, checkpoints: Checkpoints) -> None:
    """Counts on from the newest checkpoint to step 3, and exports the sum; ends in the middle where it is told to."""
    found = checkpoints.newest()
    first, total = (0, torch.zeros(())) if found is None else (found[0], found[1]["total"])
    for step in range(first + 1, 4):
        total = total + step
        context.report(step, {"total": float(total)})
        checkpoints.save(step, {"total": total}, {})
        if step == payload.get("dies_at"):
            raise RuntimeError("killed")
    export = Path(payload["root"]) / "films/models/train_dit/k"
    export.mkdir(parents=True)
    (export / "total.txt").write_text(str(float(total)))


@pytest.mark.parametrize("stored", [False, True])
def test_a_training_goes_on_on_another_machine_only_with_a_storage(tmp_path: Path, stored: bool) -> None:
    storage = f"file://{tmp_path}/storage" if stored else None
    here, there = payload(tmp_path / "a", storage), payload(tmp_path / "b", storage)
    with pytest.raises(RuntimeError):
        job(here | {"dies_at": 2}, TrainContext.local(Path(here["checkpoints"])))
    with checkpoints_of(there, TrainContext.local(Path(there["checkpoints"]))) as checkpoints:
        assert (checkpoints.newest() is not None) == stored
    job(there, TrainContext.local(Path(there["checkpoints"])))
    metrics = (Path(there["checkpoints"]) / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 3
    assert (tmp_path / "storage").exists() == stored
    if stored:
        shutil.rmtree(tmp_path / "a")
        with checkpoints_of(here, TrainContext.local(Path(here["checkpoints"]))) as checkpoints:
            assert checkpoints.newest()[0] == 3  # type: ignore[index]
        assert (tmp_path / "a/films/models/train_dit/k/total.txt").read_text() == "6.0"


def _worker(rank: int, rendezvous: str, given: dict[str, Any], answers: "multiprocessing.Queue[Any]") -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    context = of_worker(rank, 2, "cpu", 1, Path(given["checkpoints"]) / "metrics.jsonl", lambda model: model)
    with checkpoints_of(given, context) as checkpoints:
        try:
            found = newest_of_all(checkpoints, context)
            answers.put((rank, None if found is None else found[0]))
        except DifferentStepsError as error:
            answers.put((rank, str(error).partition(" (")[2].partition(")")[0]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("stored", [True, False])
def test_workers_on_two_machines_go_on_from_the_same_step(tmp_path: Path, stored: bool) -> None:
    """Rank 0 has one that was never uploaded; rank 1 a newer one, left by a training whose rank 0 it was.

    Without a storage they never agree.
    """
    storage = f"file://{tmp_path}/storage" if stored else None
    given = [payload(tmp_path / name, storage) for name in "ab"]
    for rank, steps in ((0, (1, 2)), (1, (1, 3))):
        for step in steps:
            Checkpoints(Path(given[rank]["checkpoints"])).save(step, {"total": torch.tensor(float(step))}, {})
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[Any] = spawn.Queue()
    rendezvous = f"file://{tmp_path}/rendezvous"
    workers = [spawn.Process(target=_worker, args=(rank, rendezvous, given[rank], answers)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(answers.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    if not stored:
        assert found == dict.fromkeys(range(2), "worker 0 from 2, worker 1 from 3")
        return
    assert found == {0: 2, 1: 2}
    assert os.path.isdir(tmp_path / "storage/films/checkpoints/train_dit/k/step_000002")
    assert Storage(f"{storage}/films").list("checkpoints/train_dit/k/step_000003") == {}
