import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from components.cluster import training
from components.cluster.training import TrainingFailedError, fit
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from tests.cluster.entries import train

STEPS = 12


def fit_here(
    root: Path, folder: Path, on_metrics: Callable[[int, dict[str, float]], None] = lambda step, metrics: None, **more: Any
) -> None:
    workers = more.pop("num_workers", 1)
    fit(
        "tests.cluster.entries:train",
        {"folder": str(folder), "steps": STEPS} | more,
        name="toy",
        storage=root / "ray-train",
        num_workers=workers,
        min_workers=workers,
        together=workers,
        max_failures=2,
        cpus_per_worker=2 // workers,
        threads=1,
        use_gpu=False,
        metrics_file=folder / "metrics.jsonl",
        on_metrics=on_metrics,
    )


def unbroken(folder: Path) -> dict[str, torch.Tensor]:
    """The same training in this process, never interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train({"folder": str(folder), "steps": STEPS}, TrainContext.local(folder))
    finally:
        torch.set_num_threads(threads)
    return Checkpoints(folder / "checkpoints").newest()[1]


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def starts(folder: Path) -> list[str]:
    return [line.split(" from ")[1] for line in (folder / "starts").read_text().splitlines()]


def test_a_training_in_ray_equals_one_in_this_process(ray: Path, tmp_path: Path):
    told: list[tuple[int, dict[str, float]]] = []
    fit_here(ray, tmp_path, lambda step, metrics: told.append((step, metrics)))
    (tmp_path / "here").mkdir()
    assert_equal(Checkpoints(tmp_path / "checkpoints").newest()[1], unbroken(tmp_path / "here"))
    assert [step for step, _ in told] == list(range(1, STEPS + 1))
    assert all(set(metrics) == {"loss"} for _, metrics in told)
    assert list((ray / "ray-train").iterdir()) == []
    assert (tmp_path / "prestarted").read_text() == (tmp_path / "starts").read_text().split()[1]  # the worker alone: none waits in vain
    if platform.libc_ver()[0] == "glibc":
        assert int((tmp_path / "faults").read_text()) < 8000


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_ends_at_the_same_weights(ray: Path, tmp_path: Path):
    told: list[int] = []
    fit_here(ray, tmp_path, lambda step, metrics: told.append(step), kill_at=8)
    (tmp_path / "here").mkdir()
    assert starts(tmp_path) == ["0", "5"]
    assert_equal(Checkpoints(tmp_path / "checkpoints").newest()[1], unbroken(tmp_path / "here"))
    assert told == list(range(1, STEPS + 1))


@pytest.mark.parametrize("of_a_group", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB. Process 7"),
            TrainingFailedError,
            r"too little memory \(CUDA out of memory. Tried to allocate 20.00 GiB\); hint: .*`dit.recompute_activations=true`, "
            r"while a smaller batch_size .* `kinora plan train_dit`",
        ),
        (MemoryError(), TrainingFailedError, r"too little memory \(MemoryError\); hint: "),
        (OSError(errno.ENOSPC, "No space left on device", "/full/disk"), OSError, r"No space left on device: '/full/disk'"),
        (SafetensorError("Error while serializing: I/O error: No space left on device"), OSError, r"\[Errno 28\] No space left on device"),
        (ValueError("`vae.steps` is wrong"), ValueError, r"^`vae.steps` is wrong$"),
        (RuntimeError("no; hint: way"), TrainingFailedError, r"ended with RuntimeError: no; hint: way; the whole story is in"),
        (RuntimeError("no"), TrainingFailedError, r"ended with RuntimeError: no; hint: the whole story is in"),
    ],
)
def test_what_ended_a_training_is_one_sentence(tmp_path: Path, of_a_group: bool, error: Exception, kind: type, said: str):
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    outcome = training._Outcome(told=training._told(error))
    if of_a_group:
        others = {0: ActorDiedError("")} | ({1: RuntimeError("Connection closed by peer")} if type(error) is not RuntimeError else {})
        outcome = training._Outcome(error=WorkerGroupError("", others | {2: UserExceptionWithTraceback(error, "its traceback")}))
    with pytest.raises(kind, match=said):
        training._raise_error(outcome, "module:function", tmp_path, 2)


def test_a_group_that_died_without_a_word_is_told_of_memory(tmp_path: Path):
    from ray.exceptions import ActorDiedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    outcome = training._Outcome(error=WorkerGroupError("", {0: ActorDiedError(""), 1: ActorDiedError("")}))
    with pytest.raises(TrainingFailedError, match=r"died 3 times .*; hint: memory is the usual cause; .*`kinora plan train_dit`"):
        training._raise_error(outcome, "module:function", tmp_path, 2)


@pytest.mark.long
def test_a_worker_that_always_dies_ends_the_run_with_a_hint(ray: Path, tmp_path: Path):
    with pytest.raises(TrainingFailedError, match=r"died 3 times .* hint: memory"):
        fit_here(ray, tmp_path, always_kill_at=3)
    assert len(starts(tmp_path)) == 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("raises", "error", "said"),
    [
        ("value", ValueError, r"^`vae.steps` is wrong$"),
        ("disk", OSError, r"No space left on device: '/full/disk'"),
        ("other", TrainingFailedError, r"ended with KeyError: .*; hint: the whole story is in `.*error.txt`"),
    ],
)
def test_what_the_entry_raises_comes_back_at_once(ray: Path, tmp_path: Path, raises: str, error: type, said: str):
    with pytest.raises(error, match=said):
        fit_here(ray, tmp_path, raises=raises, raise_at=2)
    assert starts(tmp_path) == ["0"]


@pytest.mark.long
def test_two_workers_train_one_model_by_ddp(ray: Path, tmp_path: Path):
    told: list[int] = []
    fit_here(ray, tmp_path, lambda step, metrics: told.append(step), num_workers=2)
    (tmp_path / "here").mkdir()
    assert told == list(range(1, STEPS + 1))
    assert sorted(line.split()[0] for line in (tmp_path / "starts").read_text().splitlines()) == ["0/2", "1/2"]
    expected = twice_the_batch()
    found = Checkpoints(tmp_path / "checkpoints").newest()[1]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def twice_the_batch() -> dict[str, torch.Tensor]:
    """DDP's truth: one process that steps on both workers' batches at once."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(1, STEPS + 1):
        batches = [torch.randn(8, 6, generator=torch.Generator().manual_seed(step * 1000 + rank)) for rank in (0, 1)]
        optimizer.zero_grad()
        model(torch.cat(batches)).square().mean().backward()
        optimizer.step()
    return dict(model.state_dict())


@pytest.mark.long
def test_an_error_on_one_of_two_workers_comes_back_as_its_own(ray: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^`vae.steps` is wrong$"):
        fit_here(ray, tmp_path, num_workers=2, raises="value", raise_at=2, raise_rank=1)
    assert len(starts(tmp_path)) == 2, "a mistake is not made again"


DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from components.cluster.session import ray_session
from components.cluster.training import fit

root = Path(sys.argv[1])
with ray_session(SimpleNamespace(cluster=SimpleNamespace(num_cpus=2, object_store_bytes=128 * 2**20)), root):
    fit(
        "tests.cluster.entries:train", {"folder": str(root), "steps": 12, "sleep": 0.3}, name="toy", storage=root / "ray-train",
        num_workers=1, min_workers=1, max_failures=2, cpus_per_worker=2, threads=1, use_gpu=False, metrics_file=root / "metrics.jsonl",
        on_metrics=lambda step, metrics: print(step, flush=True),
    )
"""


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on(tmp_path: Path, repository: Path):
    """The old worker must be gone before the new one writes, and the end is that of an unbroken run."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    first = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    while int(first.stdout.readline()) < 7:
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    worker = int((tmp_path / "starts").read_text().split()[1])
    second = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, text=True, timeout=300)
    assert second.returncode == 0
    assert not Path(f"/proc/{worker}").exists()
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, STEPS + 1))
    assert int(starts(tmp_path)[1]) >= 5
    (tmp_path / "here").mkdir()
    assert_equal(Checkpoints(tmp_path / "checkpoints").newest()[1], unbroken(tmp_path / "here"))


def test_more_than_the_machine_has_is_refused_with_the_way_out(ray: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"asks for 8 CPUs and this Ray has 2; hint: `--set cluster.num_workers=1"):
        fit(
            "tests.cluster.entries:train",
            {},
            name="toy",
            storage=tmp_path,
            num_workers=4,
            min_workers=4,
            max_failures=2,
            cpus_per_worker=2,
            threads=1,
            use_gpu=False,
            metrics_file=tmp_path / "metrics.jsonl",
            on_metrics=print,
        )


def test_lines_are_told_once_while_a_file_grows_and_is_rewritten(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tail = training._Tail(path)
    assert tail.new_lines() == []
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    assert tail.new_lines() == [(2, {"loss": 1.0})]
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 6, "loss": 0.25}\n')
    assert [step for step, _ in tail.new_lines()] == [4, 6]
    time.sleep(0.01)
    beside = tmp_path / "beside"
    beside.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n')
    os.replace(beside, path)
    assert tail.new_lines() == []
    with path.open("a") as handle:
        handle.write('{"step": 6, "loss": 0.25}\n{"step": 8, "loss": 0.125}\n')
    assert tail.new_lines() == [(8, {"loss": 0.125})]
