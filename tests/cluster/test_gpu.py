"""Ray Train on a real GPU, where there is one."""

from pathlib import Path

import pytest
import torch

from components.cluster.training import fit
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics
from tests.cluster.entries import train_transformer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_worker_that_dies_on_the_gpu_is_replaced_and_goes_on(ray: Path, tmp_path: Path) -> None:
    """The state that was saved comes back to the GPU, and ends where an unbroken training ends, but for the order of its sums."""
    fit(
        "tests.cluster.entries:train_transformer",
        {"folder": str(tmp_path), "kill_at": 6},
        name="gpu",
        storage=ray / "ray-train",
        num_workers=1,
        min_workers=1,
        max_failures=2,
        cpus_per_worker=2,
        threads=2,
        use_gpu=True,
        metrics_file=tmp_path / "metrics.jsonl",
        on_metrics=lambda step, metrics: None,
    )
    assert (tmp_path / "starts").read_text().split() == ["cuda:0", "cuda:0"]
    assert [step for step, _ in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    (tmp_path / "here").mkdir()
    train_transformer({"folder": str(tmp_path / "here")}, TrainContext.local(tmp_path / "here", "cuda:0"))
    found, expected = (Checkpoints(folder / "checkpoints").newest() for folder in (tmp_path, tmp_path / "here"))
    assert found is not None
    assert expected is not None
    assert (found[0], found[1].keys()) == (12, expected[1].keys())
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=2e-2, atol=2e-3, msg=name)
