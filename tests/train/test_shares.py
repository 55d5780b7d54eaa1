"""The loops on two workers: the same steps as one worker's, although five clips do not divide."""

import json
import multiprocessing
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, nothing_to_report, read_metrics, read_starts
from components.train.quarantine import NAME, read_quarantine
from tests.train.sharing import STEPS, TIMESTEPS, TRAININGS, hold_out, velocities_and_gradients, work

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings on two real processes that are joined by gloo."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.nn.parallel", "torch._dynamo"])
    workers = [context.Process(target=work, args=(folder, rank, 2, port)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return folder


@pytest.mark.parametrize("training", sorted(TRAININGS))
def test_two_workers_take_the_steps_of_one(training: str, by_two: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    work(tmp_path, 0, 1, 0, [training])
    torch.set_num_threads(threads)
    alone, together = (read_metrics(folder / training / "metrics.jsonl") for folder in (tmp_path, by_two))
    assert [step for step, _ in together] == [step for step, _ in alone] == list(range(1, STEPS + 1))
    losses = [name for name in alone[0][1] if "loss" in name]
    assert losses
    for (step, expected), (_, found) in zip(alone, together, strict=True):
        for name in losses:
            assert found[name] == pytest.approx(expected[name], rel=0, abs=1e-4), (step, name)
    one, two = (Checkpoints(folder / training / "checkpoints").newest() for folder in (tmp_path, by_two))
    assert one is not None
    assert two is not None
    apart = torch.cat([(one[1][name] - two[1][name]).abs().flatten() for name in one[1] if name.startswith("model.")])
    assert apart.mean() < 1e-4  # a parameter whose gradient is all but zero moves by its sign, which rounding decides


@pytest.mark.parametrize(
    "training", ["transformer", "divided-transformer", "packed-transformer", "sharded-recomputed-transformer", "sharded-vae"]
)
def test_one_worker_goes_on_from_what_two_left(training: str, by_two: Path, tmp_path: Path) -> None:
    ends = []
    for name in ("whole", "gone on"):
        place = tmp_path / name
        if name == "gone on":
            shutil.copytree(by_two / training, place / training)
            shutil.rmtree(place / training / "checkpoints" / f"step_{STEPS:06d}")
        place.mkdir(exist_ok=True)
        threads = torch.get_num_threads()
        work(place, 0, 1, 0, [training])
        torch.set_num_threads(threads)
        ends.append(Checkpoints(place / training / "checkpoints").newest())
    one, two = ends
    assert one is not None
    assert two is not None
    assert one[0] == two[0] == STEPS
    assert read_starts(tmp_path / "gone on" / training / "metrics.jsonl")[-1].step == STEPS // 2
    assert one[1].keys() == two[1].keys()
    assert {name for name in one[1] if one[1][name].shape != two[1][name].shape} == set()
    apart = torch.cat([(one[1][name] - two[1][name]).abs().flatten() for name in one[1] if name.startswith(("model.", "average."))])
    assert apart.mean() < 1e-4
    unbroken, resumed = (dict(read_metrics(tmp_path / name / training / "metrics.jsonl")) for name in ("whole", "gone on"))
    assert unbroken.keys() == resumed.keys()
    for step, told in unbroken.items():
        losses = {name: value for name, value in told.items() if "loss" in name}
        assert losses == pytest.approx({name: resumed[step][name] for name in losses}, rel=0, abs=1e-4), step


def test_a_clip_of_any_worker_is_blamed_among_all_of_the_batch(by_two: Path) -> None:
    found = read_quarantine(by_two / "accused" / NAME)
    assert {name: why.partition(":")[0] for name, why in found.items()} == {
        "a clip of the other worker": "step 4",
        **dict.fromkeys("abcd", "step 9"),
    }


def test_two_workers_share_out_the_tokens_of_held_out_clips(by_two: Path) -> None:
    alone, tokens = hold_out(TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model))
    for rank in range(2):
        together, of_worker = json.loads((by_two / f"held out {rank}.json").read_text())
        assert together == pytest.approx(alone, rel=1e-4)
        assert of_worker == [count // 2 for count in tokens]


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_two_workers_that_share_out_tokens_answer_and_learn_what_one_does(timesteps: str, by_two: Path) -> None:
    alone = velocities_and_gradients(None, timesteps)
    for rank in range(2):
        together = load_file(by_two / f"{timesteps} {rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(together[name], expected, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
