"""Ray Train for one worker on one's own machine, without the helpers that only several workers or a shared cluster need.

Ray's TorchTrainer is its DataParallelTrainer plus a process group. A lone worker has no group, so neither the driver nor Ray's
controller has to import torch; nor do a dataset manager (nothing is a Ray dataset here), a placement group cleaner (the driver's
death ends this Ray) or an autoscaling coordinator (there is nothing to scale) have to start, each a Python process.
These are parts of the pinned Ray; should one be missing, the run is Ray's own, only slower to start.
"""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

NOT_NEEDED = {
    "PlacementGroupCleanerCallback",
    "DatasetsCallback",
    "AcceleratorSetupCallback",
    "WorkingDirectorySetupCallback",
    "ControllerMetricsCallback",
    "WorkerMetricsCallback",
}


class LoneWorkerPolicy(FixedScalingPolicy):
    """A fixed worker group that asks no autoscaler for its place."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    async def before_controller_shutdown(self) -> None:
        pass

    def before_controller_abort(self) -> None:
        pass


class LoneWorkerTrainer(DataParallelTrainer):
    """A trainer of Ray Train V2 whose one worker needs no process group."""

    def fit(self) -> Any:
        usual = data_parallel_trainer.create_scaling_policy
        data_parallel_trainer.create_scaling_policy = lambda scaling_config: LoneWorkerPolicy(scaling_config=scaling_config)
        try:
            return super().fit()
        finally:
            data_parallel_trainer.create_scaling_policy = usual

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in NOT_NEEDED]
