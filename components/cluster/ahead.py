"""The worker process of a training, started before Ray Train asks for it, so that its imports run beside those of the controller.

Ray keeps a started process for whoever asks for its runtime environment next. These are internals of the pinned Ray; without them a
training starts as it would, only later.
"""

import contextlib
import importlib
import json
import os
from typing import Any, cast

from components.models import trainer_process

KEEP_SECONDS = 180
HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"  # what a process of Ray calls first


def import_all() -> None:
    """Imports what a training worker needs in any case."""
    importlib.import_module("ray.train")
    trainer_process.let_threads_wait_awake()
    importlib.import_module("torch")


def worker_environment() -> dict[str, str]:
    """Answers the variables that a training's runtime environment asks for, beside those Ray Train adds."""
    return {HOOK: f"{import_all.__module__}.{import_all.__qualname__}"} | trainer_process.kept_memory(os.environ)


def start_worker_process(settings: dict[str, str]) -> None:
    """Asks this machine's raylet for the process; whatever goes wrong is left to the usual start.

    Args:
        settings: variables of the session's processes, of which Ray Train hands its own on.
    """
    with contextlib.suppress(Exception):
        _ask_raylet(_train_environment(settings))


def _train_environment(settings: dict[str, str]) -> dict[str, str]:
    """Puts together what Ray Train will ask for: its variables by way of the controller, and ours."""
    from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
    from ray.train.v2._internal.constants import DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE, ENV_VARS_TO_PROPAGATE

    known = dict(os.environ) | settings
    handed_on = {name: known[name] for name in ENV_VARS_TO_PROPAGATE if name in known}
    handed_on.setdefault(RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR, DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE)
    return handed_on | worker_environment()


def _ask_raylet(variables: dict[str, str]) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel

    common_pb2, node_manager_pb2, node_manager_pb2_grpc, runtime_environment_pb2 = (
        cast(Any, importlib.import_module(f"ray.core.generated.{name}"))
        for name in ("common_pb2", "node_manager_pb2", "node_manager_pb2_grpc", "runtime_environment_pb2")
    )
    here = ray.get_runtime_context()
    node: dict[str, Any] = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    asked = json.dumps({"env_vars": variables}, sort_keys=True, separators=(",", ":"))  # to the letter as the controller's Ray writes it
    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.Language.PYTHON,
        job_id=ray.JobID.from_hex(here.get_job_id()).binary(),
        runtime_env_info=runtime_environment_pb2.RuntimeEnvInfo(serialized_runtime_env=asked),
        keep_alive_duration_secs=KEEP_SECONDS,
        num_workers=1,
    )
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=10)
