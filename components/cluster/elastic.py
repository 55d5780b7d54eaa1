"""Ray Train for several workers: it waits for room, goes on with fewer when a node dies and with more when one joins.

Ray's own elastic policy looks at the cluster every 20 seconds, starts a group on a node that died meanwhile and waits for it. Ours
looks when it has to decide. These are parts of the pinned Ray.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision
from ray.train.v2.api import data_parallel_trainer

from components.cluster.endings import comes_again, raised

logger = logging.getLogger("kinora")

LOOK_AGAIN_SECONDS = 0.5
ANSWER_SECONDS = 5.0
WAIT_FOR_ROOM_SECONDS = 1800.0
CHECKPOINT_SECONDS = 10.0  # how often one looks for a new checkpoint
MOST_DONE_AGAIN_SECONDS = 90.0  # of work that a group may lose to become larger; more than a minute, after which it first looks for room


class NoRoomError(RuntimeError):
    """The cluster had no room for the workers for so long that somebody has to look."""


class PresentNodesPolicy(ElasticScalingPolicy):
    """Counts the workers that fit on the nodes that are alive now.

    Args:
        together: workers that belong together; what is left of a group waits for the rest of it.
        newest: answers the step of the newest checkpoint, None where that is not known; a group becomes larger soon after one.
    """

    def __init__(self, scaling_config: Any, together: int = 1, newest: Callable[[], int | None] | None = None) -> None:
        super().__init__(scaling_config)
        self._together = together
        self._without_room_since: float | None = None
        self._newest = newest
        self._watch: threading.Thread | None = None
        self._step: int | None = None
        self._saved_at = -math.inf

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        fit: int = super()._count_possible_workers(reserved_resources)
        return fit // self._together * self._together

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Decides how many workers start.

        Raises:
            NoRoomError: there has been no room for the fewest of them for half an hour.
        """
        decision = super().make_decision_for_non_running_worker_group()
        if not isinstance(decision, NoopDecision):
            self._without_room_since = None
            return decision
        now = time.monotonic()
        self._without_room_since = self._without_room_since or now
        if now - self._without_room_since > WAIT_FOR_ROOM_SECONDS:
            fewest = self.scaling_config.min_workers
            raise NoRoomError(f"the cluster has had no room for {fewest} workers for {WAIT_FOR_ROOM_SECONDS / 60:.0f} minutes")
        time.sleep(LOOK_AGAIN_SECONDS)  # Ray's controller asks again at once
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Decides how many workers go on; they become more, which starts all of them again, only where little is done again."""
        running = worker_group_state.num_workers
        if self._newest is None or running >= self.scaling_config.max_workers:
            return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if self._watch is None:
            self._watch = threading.Thread(target=self._look_for_checkpoints, name="newest-checkpoint", daemon=True)
            self._watch.start()
        if self._saved_at > self._latest_monitor_time:
            self._latest_monitor_time = -math.inf  # Ray's policy then looks for room now
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        since = time.monotonic() - max(worker_group_state.start_time, self._saved_at)
        grows = isinstance(decision, ResizeDecision) and decision.num_workers > running
        return NoopDecision() if grows and since > MOST_DONE_AGAIN_SECONDS else decision

    def _look_for_checkpoints(self) -> None:
        """Notes when checkpoints appear, in a thread: a storage may be slow to answer."""
        while True:
            self._look_for_checkpoint()
            time.sleep(CHECKPOINT_SECONDS)

    def _look_for_checkpoint(self) -> None:
        step = self._newest() if self._newest is not None else None
        if step is not None and step != self._step:
            self._step, self._saved_at = step, time.monotonic()

    def _get_reserved_resources(self) -> Any:
        """Answers what the living nodes lend to this training; Ray's own answer may be 20 seconds old."""
        now = time.monotonic()
        if now - self._latest_reserved_resources_query_time >= LOOK_AGAIN_SECONDS:
            self._latest_reserved_resources_query_time = now
            try:
                asked = self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
                self._latest_reserved_resources = ray.get(asked, timeout=ANSWER_SECONDS)
            except RayError as error:
                logger.warning("Ray does not say what room there is (%s), it is asked again", type(error).__name__)
                self._latest_reserved_resources = None
        return self._latest_reserved_resources


class MistakesEndPolicy(DefaultFailurePolicy):
    """Starts workers again after deaths, but not after a mistake that they would make again, nor where memory or the disk is too small."""

    def make_decision(self, training_failed_error: Any) -> Any:
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(comes_again(raised(error)) for error in failures):
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class ElasticTrainer(TorchTrainer):
    """A trainer of Ray Train V2 whose group is as large as the living nodes allow, in whole groups of `together`."""

    def __init__(self, train_worker: Any, *, together: int = 1, newest: Callable[[], int | None] | None = None, **options: Any) -> None:
        super().__init__(train_worker, **options)
        self._together, self._newest = together, newest

    def fit(self) -> Any:
        with _our_policies(self._together, self._newest):
            return super().fit()


def _failure_policy(failure_config: Any) -> MistakesEndPolicy:
    return MistakesEndPolicy(failure_config)


@contextmanager
def _our_policies(together: int, newest: Callable[[], int | None] | None) -> Iterator[None]:
    usual = data_parallel_trainer.create_scaling_policy, data_parallel_trainer.create_failure_policy
    data_parallel_trainer.create_scaling_policy = lambda scaling_config: PresentNodesPolicy(scaling_config, together, newest)
    data_parallel_trainer.create_failure_policy = _failure_policy
    try:
        yield
    finally:
        data_parallel_trainer.create_scaling_policy, data_parallel_trainer.create_failure_policy = usual
