"""A training of a process of its own in a cluster, that waits at given steps for the cluster to change."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from components.train.context import TrainContext, read_metrics
from tests.cluster.entries import train_shared
from tests.cluster.nodes import REPOSITORY, Cluster

DRIVER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from components.cluster import training
from components.cluster.session import ray_session

training.RESIZE_SECONDS = 2.0
folder = Path(sys.argv[1])
with ray_session(SimpleNamespace(cluster=SimpleNamespace(num_cpus=0, object_store_bytes=0)), folder):
    training.fit(
        "tests.cluster.entries:train_shared", {"folder": str(folder), **json.loads(sys.argv[2])},
        name="shared", storage=folder / "ray-train", num_workers=2, min_workers=1, max_failures=2, cpus_per_worker=1, threads=1,
        use_gpu=False, metrics_file=folder / "metrics.jsonl", on_metrics=lambda step, metrics: None,
    )
"""


class Training:
    """A driver with one or two workers; ended with the block.

    Args:
        waits: (step, workers, sign): before this step a group of so many workers waits until there is a file of this name.
    """

    def __init__(self, ray: Cluster, folder: Path, steps: int, waits: Sequence[tuple[int, int, str]]) -> None:
        self.ray, self.folder = ray, folder
        self.payload = json.dumps({"steps": steps, "waits": waits})

    def __enter__(self) -> "Training":
        command = [sys.executable, "-c", DRIVER, str(self.folder), self.payload]
        with (self.folder / "driver.log").open("w") as log:
            self.driver = subprocess.Popen(command, env=self.ray.environment, cwd=REPOSITORY, stdout=log, stderr=log)
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.kill()
        self.driver.wait()

    @property
    def losses(self) -> dict[int, float]:
        return {step: metrics["loss"] for step, metrics in read_metrics(self.folder / "metrics.jsonl")}

    @property
    def sizes(self) -> list[str]:
        """How many workers there were, one group after the other."""
        firsts = [line.partition("/")[2] for line in (self.folder / "starts").read_text().split() if line.startswith("0/")]
        return [size for size, _ in itertools.groupby(firsts)]

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Waits until a step is done."""
        until = time.monotonic() + seconds
        while max(self.losses, default=0) < step:
            if self.driver.poll() not in (None, 0) or time.monotonic() > until:
                raise AssertionError(f"step {step} never came: " + (self.folder / "driver.log").read_text()[-4000:])
            time.sleep(0.05)

    def wait_for_end(self, seconds: float) -> None:
        assert self.driver.wait(seconds) == 0, (self.folder / "driver.log").read_text()[-4000:]


def losses_alone(folder: Path, steps: int) -> dict[int, float]:
    """The same training in this process, by one worker that nothing disturbs."""
    folder.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_shared({"folder": str(folder), "steps": steps}, TrainContext.local(folder))
    torch.set_num_threads(threads)
    return {step: metrics["loss"] for step, metrics in read_metrics(folder / "metrics.jsonl")}
