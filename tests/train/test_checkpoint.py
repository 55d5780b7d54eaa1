import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.train import checkpoint
from components.train.checkpoint import Checkpoints, DifferentStepsError, load_optimizer_tensors, newest_of_all, optimizer_tensors
from components.train.context import TrainContext, read_metrics


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"model.weight": torch.full((64, 64), float(step)), "model.steps": torch.tensor(step)}


def filled(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, weights(step), {"seed": 3})
    return checkpoints


def test_a_new_folder_has_no_checkpoint(tmp_path: Path):
    assert Checkpoints(tmp_path / "none").newest() is None


def test_the_newest_step_comes_back_bit_for_bit(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    odd = torch.tensor([0.1, float("nan"), float("-inf"), 1e-45])
    checkpoints.save(7, {"odd": odd, "half": odd.to(torch.bfloat16), "view": torch.arange(12).reshape(3, 4).T}, {"note": "x"})
    step, tensors, meta = checkpoints.newest()
    assert (step, meta) == (7, {"note": "x"})
    assert tensors["odd"].view(torch.int32).tolist() == odd.view(torch.int32).tolist()
    assert tensors["half"].dtype == torch.bfloat16
    assert tensors["view"].tolist() == torch.arange(12).reshape(3, 4).T.tolist()


def test_tied_tensors_can_be_saved(tmp_path: Path):
    shared = torch.randn(4)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": shared, "b": shared}, {})
    assert torch.equal(checkpoints.newest()[1]["b"], shared)


def test_only_the_newest_are_kept(tmp_path: Path):
    filled(tmp_path, 10, 20, 30, keep=2)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step_000020", "step_000030"]


def test_a_step_can_be_saved_again(tmp_path: Path):
    checkpoints = filled(tmp_path, 10, 20, 20)
    assert checkpoints.newest()[0] == 20
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step_000010", "step_000020"]


@pytest.mark.parametrize("damage", ["cut", "flip", "manifest", "file", "manifest_cut", "other_step"])
def test_a_damaged_step_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str):
    checkpoints = filled(tmp_path, 10, 20)
    place = tmp_path / "step_000020"
    data = place / "tensors.safetensors"
    match damage:
        case "cut":
            os.truncate(data, data.stat().st_size // 2)
        case "flip":
            blob = bytearray(data.read_bytes())
            blob[-5] ^= 1
            data.write_bytes(blob)
        case "manifest":
            (place / "manifest.json").unlink()
        case "manifest_cut":
            os.truncate(place / "manifest.json", 20)
        case "file":
            data.unlink()
        case "other_step":
            place.rename(tmp_path / "step_000021")
    with caplog.at_level(logging.WARNING, logger="kinora"):
        step, tensors, _ = checkpoints.newest()
    assert step == 10
    assert torch.equal(tensors["model.weight"], weights(10)["model.weight"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(("others", "agree"), [([5, 5], True), ([5, 4], False), ([0, 5], False)])
def test_workers_that_would_go_on_from_different_steps_are_refused(
    tmp_path: Path, others: list[int], agree: bool, monkeypatch: pytest.MonkeyPatch
):
    checkpoints, context = Checkpoints(tmp_path), replace(TrainContext.local(tmp_path), world_size=3)
    monkeypatch.setattr(checkpoint, "told_by_all", lambda value, context: [value, *others])
    checkpoints.save(5, {"a": torch.ones(2)}, {})
    if agree:
        assert newest_of_all(checkpoints, context)[0] == 5
        return
    told = f"worker 0 from 5, worker 1 from {others[0]}, worker 2 from {others[1]}"
    with pytest.raises(DifferentStepsError, match=rf"different steps \({told}\).*; hint: .*`cluster.storage`"):
        newest_of_all(checkpoints, context)


def test_saving_after_a_fall_back_clears_the_damaged_future(tmp_path: Path):
    checkpoints = filled(tmp_path, 10, 20)
    (tmp_path / "step_000020" / "manifest.json").unlink()
    (tmp_path / ".step_000030.leftover").mkdir()
    checkpoints.save(15, weights(15), {})
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step_000010", "step_000015"]
    assert checkpoints.newest()[0] == 15


KILLED_WHILE_SAVING = """
import os, signal, sys, time
from pathlib import Path
import torch
from components.train.checkpoint import Checkpoints

torch.set_num_threads(1)  # a forked child must not wait for its parent's threads
checkpoints = Checkpoints(Path(sys.argv[1]))
for delay in (0.0, 0.003, 0.007, 0.011, 0.016, 0.023, 0.031, 0.052):
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        found = checkpoints.newest()
        step = found[0] if found else 0
        while True:
            step += 1
            checkpoints.save(step, {"weight": torch.full((300, 300), float(step))}, {"step": step})
            os.write(told, b"%d " % step)
    first = int(os.read(heard, 100).split()[0])
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(told)
    rest = os.read(heard, 1 << 20).split()
    told_last = int(rest[-1]) if rest else first
    step, tensors, meta = checkpoints.newest()
    assert told_last <= step <= told_last + 1, (told_last, step)
    assert meta["step"] == step and bool((tensors["weight"] == step).all())
    print(step)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path):
    """Real SIGKILLs at uneven moments of a process that does nothing but save."""
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in done.stdout.split()]
    assert len(steps) == 8
    assert steps == sorted(steps)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


class Heavy(torch.optim.Optimizer):
    """Momentum with Python numbers and a bfloat16 buffer in its state, as an optimiser of ours may have."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                buffer = state.setdefault("buffer", torch.zeros_like(p, dtype=torch.bfloat16))
                state["count"] = state.get("count", 0) + 1
                state["scale"] = state.get("scale", 1.0) * 0.93
                buffer.mul_(0.9).add_(p.grad)
                p.data.add_(buffer.to(p.dtype), alpha=-group["lr"] * state["scale"] / state["count"])


@pytest.mark.parametrize(
    "make",
    [
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
        lambda model: torch.optim.AdamW([{"params": [p], "lr": 0.01 / (i + 1)} for i, p in enumerate(reversed(list(model.parameters())))]),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True, fused=True),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        lambda model: Heavy(model.parameters()),
    ],
    ids=["adamw", "adamw-groups", "adamw-fused", "sgd", "numbers"],
)
def test_a_resumed_optimiser_ends_as_an_unbroken_one(tmp_path: Path, make):
    unbroken = fresh()
    optimizer = make(unbroken)
    train(unbroken, optimizer, range(6))
    kept = {f"model.{name}": value for name, value in unbroken.state_dict().items()}
    Checkpoints(tmp_path).save(6, kept | optimizer_tensors(optimizer, dict(unbroken.named_parameters())), {})
    train(unbroken, optimizer, range(6, 12))

    resumed = fresh()
    optimizer = make(resumed)
    _, tensors, _ = Checkpoints(tmp_path).newest()
    resumed.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    load_optimizer_tensors(optimizer, dict(resumed.named_parameters()), tensors)
    train(resumed, optimizer, range(6, 12))
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_states_of_another_model_are_refused():
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, range(1))
    tensors = optimizer_tensors(optimizer, {f"other.{name}": p for name, p in model.named_parameters()})
    with pytest.raises(ValueError, match="not trained here"):
        load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)


def test_each_step_is_reported_once_also_after_a_resume(tmp_path: Path):
    first = TrainContext.local(tmp_path)
    for step in (2, 4, 6, 8):
        first.report(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 10, "lo')  # a kill in the middle of a line
    resumed = TrainContext.local(tmp_path)  # from a checkpoint of step 4
    for step in (6, 8, 10):
        resumed.report(step, {"loss": 1.0 / step})
        resumed.report(step, {"loss": 99.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert read_metrics(tmp_path / "metrics.jsonl") == [(step, {"loss": 1.0 / step}) for step in (2, 4, 6, 8, 10)]
