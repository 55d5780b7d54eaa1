"""Ray Train for several workers: it waits for room, goes on with fewer when a node dies and with more when one joins.

Ray's own elastic policy looks at the cluster every 20 seconds, starts a group on a node that died meanwhile and waits for it. Ours
looks when it has to decide. These are parts of the pinned Ray.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision
from ray.train.v2.api import data_parallel_trainer

from components.cluster.endings import comes_again, raised

logger = logging.getLogger("kinora")

LOOK_AGAIN_SECONDS = 0.5
ANSWER_SECONDS = 5.0
WAIT_FOR_ROOM_SECONDS = 1800.0


class NoRoomError(RuntimeError):
    """The cluster had no room for the workers for so long that somebody has to look."""


class PresentNodesPolicy(ElasticScalingPolicy):
    """Counts the workers that fit on the nodes that are alive now.

    Args:
        together: workers that belong together; what is left of a group waits for the rest of it.
    """

    def __init__(self, scaling_config: Any, together: int = 1) -> None:
        super().__init__(scaling_config)
        self._together = together
        self._without_room_since: float | None = None

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

    def __init__(self, train_worker: Any, *, together: int = 1, **options: Any) -> None:
        super().__init__(train_worker, **options)
        self._together = together

    def fit(self) -> Any:
        with _our_policies(self._together):
            return super().fit()


def _failure_policy(failure_config: Any) -> MistakesEndPolicy:
    return MistakesEndPolicy(failure_config)


@contextmanager
def _our_policies(together: int) -> Iterator[None]:
    usual = data_parallel_trainer.create_scaling_policy, data_parallel_trainer.create_failure_policy
    data_parallel_trainer.create_scaling_policy = lambda scaling_config: PresentNodesPolicy(scaling_config, together)
    data_parallel_trainer.create_failure_policy = _failure_policy
    try:
        yield
    finally:
        data_parallel_trainer.create_scaling_policy, data_parallel_trainer.create_failure_policy = usual
