"""A training on Ray as two nodes: one dies and another comes, and the losses are those of a training that saw none of it."""

import errno
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError
from safetensors import SafetensorError

from components.store.checkpoints import newest_finished
from components.store.project import Project
from components.train.checkpoint import Checkpoints
from tests.cluster.nodes import cluster, kill_raylet
from tests.cluster.shared import Training, losses_alone

ASK = """
import sys
from pathlib import Path
from components.cluster.nodes import installed, look_at_nodes_by_job
print([node.versions == installed() and node.sees_root for node in look_at_nodes_by_job(sys.argv[1], Path(sys.argv[2]))])
"""
STEPS, LOST_AT, BACK_AT = 24, 8, 16


def test_a_mistake_ends_a_training_and_a_death_does_not() -> None:
    from ray.train.v2.api.config import FailureConfig
    from ray.train.v2.api.exceptions import WorkerGroupError

    from components.cluster.elastic import FailureDecision, MistakesEndPolicy

    policy = MistakesEndPolicy(FailureConfig(max_failures=1))
    lost = WorkerGroupError("", {0: RuntimeError("Connection closed by peer"), 1: OSError("gone")})
    assert policy.make_decision(lost) == FailureDecision.RETRY
    assert policy.make_decision(WorkerGroupError("", {1: ValueError("`vae.steps` is wrong")})) == FailureDecision.RAISE
    assert policy.make_decision(lost) == FailureDecision.RAISE


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'), True),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), False),
        (RayActorError(error_msg="The actor died, its node was out of memory"), False),
    ],
)
def test_too_little_memory_or_disk_ends_a_training(error: Exception, ends: bool) -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.config import FailureConfig
    from ray.train.v2.api.exceptions import WorkerGroupError

    from components.cluster.elastic import FailureDecision, MistakesEndPolicy

    for put in (error, UserExceptionWithTraceback(error, "its traceback")):
        decision = MistakesEndPolicy(FailureConfig(max_failures=1)).make_decision(
            WorkerGroupError("", {0: RuntimeError("Connection closed by peer"), 1: put})
        )
        assert decision == (FailureDecision.RAISE if ends else FailureDecision.RETRY)


@pytest.mark.parametrize(
    ("left", "together", "expected"),
    [
        ([4, 4], 4, 8),
        ([4, 3], 4, 4),  # one of eight is lost: its group waits
        ([4, 3], 1, 7),
        ([3], 4, 0),  # and with it the training
        ([9, 9], 4, 8),
    ],
)
def test_workers_that_belong_together_start_together(left: list[int], together: int, expected: int) -> None:
    assert size(policy_of(left, together).make_decision_for_non_running_worker_group()) == expected


@pytest.mark.parametrize(
    ("running", "left", "started", "looked", "saved", "expected"),
    [
        (4, 8, 1000, 61, None, 0),  # seconds ago; 0: they go on as they are
        (4, 8, 61, 61, None, 8),  # little has been done since the start
        (4, 8, 1000, 61, 70, 8),
        (4, 8, 1000, 61, 100, 0),
        (4, 8, 1000, 30, 5, 8),  # a checkpoint since the last look: it looks at once
        (4, 8, 1000, 30, 40, 0),
        (4, 8, 30, 1000, 5, 0),  # just started
        (4, 4, 1000, 61, 5, 0),
        (6, 4, 1000, 61, None, 4),  # fewer are as many as there is room for, at any time
        (8, 4, 1000, 61, None, 4),
    ],
)
def test_a_group_becomes_larger_where_little_is_done_again(
    running: int, left: int, started: float, looked: float, saved: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.cluster.elastic import PresentNodesPolicy

    monkeypatch.setattr(PresentNodesPolicy, "_look_for_checkpoints", lambda policy: None)
    now = time.monotonic()
    policy = policy_of([left], newest=lambda: 4)
    policy._latest_monitor_time = now - looked
    policy._saved_at = -math.inf if saved is None else now - saved
    group = SimpleNamespace(num_workers=running, start_time=now - started)
    assert size(policy.make_decision_for_running_worker_group(group, None)) == expected


def test_a_group_whose_checkpoints_are_unknown_becomes_larger_at_once() -> None:
    group = SimpleNamespace(num_workers=4, start_time=time.monotonic() - 1000)
    assert size(policy_of([8]).make_decision_for_running_worker_group(group, None)) == 8


def test_a_checkpoint_is_new_once() -> None:
    steps = iter([None, 4, 4, None, 4, 8])
    policy, found = policy_of([8], newest=lambda: next(steps)), []
    for _ in range(6):
        policy._saved_at = -math.inf
        policy._look_for_checkpoint()
        found.append(policy._saved_at > -math.inf)
    assert found == [False, True, False, False, False, True]


def test_a_policy_travels_to_the_controller_and_sees_checkpoints_there(tmp_path: Path) -> None:
    from ray import cloudpickle
    from ray.train.v2.api.config import ScalingConfig

    from components.cluster.elastic import PresentNodesPolicy

    newest = partial(newest_finished, Project(tmp_path, "films"), tmp_path)
    policy = cloudpickle.loads(cloudpickle.dumps(PresentNodesPolicy(ScalingConfig(num_workers=(4, 8)), newest=newest)))
    Checkpoints(tmp_path).save(4, {"a": torch.ones(2)}, {})
    policy._look_for_checkpoint()
    assert policy._step == 4


def policy_of(left: list[int], together: int = 1, newest: Callable[[], int | None] | None = None) -> Any:
    """Answers a policy of 4 to 8 workers that has been told what the nodes lend, without a cluster."""
    from ray.train.v2.api.config import ScalingConfig

    from components.cluster.elastic import PresentNodesPolicy

    nodes = {f"node {number}": {"CPU": float(cpus)} for number, cpus in enumerate(left)}

    class Lent(PresentNodesPolicy):
        def _get_reserved_resources(self) -> Any:
            return nodes

        def _maybe_send_resource_request(self) -> None:
            pass

    scaling = ScalingConfig(num_workers=(4, 8), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=60.0)
    return Lent(scaling, together, newest)


def size(decision: Any) -> int:
    """Answers how many workers a decision starts; 0: it starts none."""
    from ray.train.v2._internal.execution.scaling_policy import NoopDecision

    return 0 if isinstance(decision, NoopDecision) else decision.num_workers


@pytest.mark.long
def test_a_training_outlives_its_node_and_takes_in_another(tmp_path: Path) -> None:
    with cluster(tmp_path) as ray:
        second = ray.add_node()
        asked = subprocess.run(
            [sys.executable, "-c", ASK, ray.jobs_api, str(tmp_path)], env=ray.environment, capture_output=True, text=True
        )
        assert asked.stdout.split() == ["[True,", "True]"], asked.stderr[-2000:]
        with Training(ray, tmp_path, STEPS, [(LOST_AT, 2, "lost"), (BACK_AT, 1, "never")]) as training:
            training.wait_for_step(LOST_AT, 240)
            kill_raylet(second)
            (tmp_path / "lost").touch()
            training.wait_for_step(BACK_AT, 240)
            ray.add_node()
            training.wait_for_step(STEPS, 240)
            training.wait_for_end(120)
    assert training.sizes == ["2", "1", "2"]
    expected = losses_alone(tmp_path / "alone", STEPS)
    found = training.losses
    assert list(found) == list(range(1, STEPS + 1))
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=0, abs=1e-4), step
