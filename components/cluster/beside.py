"""Work beside a training, on what its machine has to spare: a Ray task of zero CPUs, one at a time."""

import importlib
import logging
from typing import Any

logger = logging.getLogger("kinora")

QUIET = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Beside:
    """Runs functions by their names on this node, each in a process of its own that ends with it."""

    def __init__(self) -> None:
        self._running: Any = None
        self._what = ""

    def is_busy(self) -> bool:
        """Tells whether what was started last still runs; how it failed, if it did, is said once."""
        import ray

        if self._running is None:
            return False
        if not ray.wait([self._running], timeout=0)[0]:
            return True
        try:
            ray.get(self._running)
        except Exception as error:
            logger.warning("%s failed: %s", self._what, (str(error).strip() or type(error).__name__).splitlines()[-1])
        self._running = None
        return False

    def start(self, what: str, entry: str, *arguments: str) -> None:
        """Starts "module:function" with arguments; `what` names it in a warning."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_calls": 1, "max_retries": 0, "runtime_env": {"env_vars": QUIET}}
        remote: Any = ray.remote
        self._what, self._running = what, remote(scheduling_strategy=here, **options)(_run).remote(entry, arguments)

    def close(self) -> None:
        """Ends what still runs."""
        import ray

        if self.is_busy():
            ray.cancel(self._running, force=True)
            self._running = None


def _run(entry: str, arguments: tuple[str, ...]) -> None:
    module, _, name = entry.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)
