"""One training as one Ray Train run: named entry in, metrics out line by line, errors in one sentence."""

import contextlib
import dataclasses
import errno
import fcntl
import importlib
import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.cluster import ahead
from components.cluster.beside import Beside
from components.cluster.endings import comes_again, is_a_death, lacks, raised
from components.cluster.reserved import hold
from components.cluster.session import LOCAL_ENVIRONMENT, ray_is_local
from components.models import trainer_process

logger = logging.getLogger("kinora")

CONTEXT = "components.train.context:of_worker"
TAIL_SECONDS = 0.5
FOLLOW_SECONDS = 10.0
RESIZE_SECONDS = 60.0  # how often a group that is not whole looks whether there is room for more
START_SECONDS = "15"  # for a group's room; some of it may have gone with a node, which shows in a new try
WAIT_FOR_OLD_WORKER_SECONDS = 300
MORE_MEMORY = (
    "the same command goes on from the last checkpoint, also with other `cluster` settings or `dit.recompute_activations=true`, "
    "while a smaller batch_size starts anew; `kinora plan train_dit` says what fits"
)


class TrainingFailedError(RuntimeError):
    """A training that ended with an error; the message is the cause in one sentence."""


@dataclass(frozen=True)
class _Group:
    """How many workers there may be, how often they may die, what each needs, how many belong together, and their newest checkpoint."""

    min_workers: int
    max_workers: int
    max_failures: int
    cpus: int
    use_gpu: bool
    together: int = 1
    newest: Callable[[], int | None] | None = None

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": 1} if self.use_gpu else {})}


@dataclass
class _Outcome:
    """How a Ray Train run ended: what its worker told, or the error that Ray raised."""

    told: dict[str, Any] | None = None
    error: BaseException | None = None


def fit(
    entry: str,
    payload: Mapping[str, Any],
    *,
    name: str,
    storage: Path,
    num_workers: int,
    min_workers: int,
    max_failures: int,
    cpus_per_worker: int,
    threads: int,
    use_gpu: bool,
    metrics_file: Path,
    on_metrics: Callable[[int, dict[str, float]], None],
    follow: Callable[[], None] | None = None,
    sharded: bool = False,
    together: int = 1,
    newest: Callable[[], int | None] | None = None,
) -> None:
    """Trains by Ray Train and waits for the end; needs a `ray_session` around it.

    Workers that die are replaced, and the training goes on from the entry's own checkpoints, never from Ray's. It goes on with fewer
    of them, but `min_workers`, where the cluster has lost a node, and with more again when there is room, soon after a checkpoint.

    Args:
        entry: "module:function", called in each worker as function(payload, context) with a TrainContext.
        payload: JSON-like settings for the entry.
        name: of the run; each call makes a fresh one of it, so no finished run is taken for this one.
        max_failures: how often workers may die; a node that is taken away with notice, or has no room yet, does not count.
        storage: Ray's own folder, emptied of this name's runs before and after.
        metrics_file: where rank 0 writes a line a step.
        on_metrics: called in this thread with each line once, in order; lines of an earlier, killed call are among them.
        follow: called in this thread every few seconds and at the end: brings the metrics file here when rank 0 is elsewhere.
        sharded: several workers each keep a part of a large model instead of all of it.
        together: workers that belong together; there are none of them or all.
        newest: answers the step of the newest checkpoint, on any machine of the cluster, None where that is not known; without it
            there are more workers as soon as there is room, whatever they have to do again.

    Raises:
        ValueError, OSError: what the entry raised, when it is one of these; a full disk is an OSError, whoever met it.
        TrainingFailedError: anything else that ended it.
    """
    storage, metrics_file = Path(storage).resolve(), Path(metrics_file).resolve()
    min_workers = -(-min_workers // together) * together
    _check_room(min_workers, cpus_per_worker, use_gpu)
    for old in storage.glob(f"{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    run_name = f"{name}-{uuid.uuid4().hex[:8]}"
    folder = storage / run_name
    folder.mkdir(parents=True)
    config = {
        "entry": entry,
        "payload": dict(payload),
        "threads": threads,
        "use_gpu": use_gpu,
        "sharded": sharded,
        "metrics_file": str(metrics_file),
        "trace_file": str(folder / "error.txt"),
        "folder": os.getcwd(),
    }
    outcome = _Outcome()
    group = _Group(min_workers, num_workers, max_failures, cpus_per_worker, use_gpu, together, newest)
    ray_train = threading.Thread(
        target=_run_ray_train,
        args=(config, run_name, storage, group, outcome),
        name="ray-train",
        daemon=True,  # Ctrl-C is answered here, in the thread that called; the end of the session ends the run
    )
    ray_train.start()
    tail, followed_at = _Tail(metrics_file), time.monotonic()
    release = hold(num_workers * cpus_per_worker, num_workers if use_gpu else 0)
    try:
        while ray_train.is_alive():
            ray_train.join(TAIL_SECONDS)
            if follow is not None and (time.monotonic() - followed_at > FOLLOW_SECONDS or not ray_train.is_alive()):
                follow()
                followed_at = time.monotonic()
            for step, metrics in tail.new_lines():
                on_metrics(step, metrics)
    finally:
        release()
    for step, metrics in tail.new_lines():
        on_metrics(step, metrics)
    _raise_error(outcome, entry, folder, max_failures)
    shutil.rmtree(folder, ignore_errors=True)


def _check_room(num_workers: int, cpus_per_worker: int, use_gpu: bool) -> None:
    """Refuses what this machine will never have; a cluster may still grow, so there the training waits, and says so."""
    import ray

    has = ray.cluster_resources()
    needs = {"CPU": num_workers * cpus_per_worker} | ({"GPU": num_workers} if use_gpu else {})
    for resource, count in needs.items():
        if has.get(resource, 0) < count:
            if not ray_is_local():
                logger.warning("the training waits for %g %ss, this Ray has %g until now", count, resource, has.get(resource, 0))
                continue
            setting = "cluster.use_gpu=false" if resource == "GPU" else "cluster.num_workers=1, or cluster.num_cpus"
            raise ValueError(
                f"the training asks for {count} {resource}s and this Ray has {has.get(resource, 0):g}; "
                f"hint: `--set {setting}`, or RAY_ADDRESS of a cluster"
            )


def _run_ray_train(config: dict[str, Any], name: str, storage: Path, group: _Group, outcome: "_Outcome") -> None:
    try:
        lone = group.max_workers == 1 and ray_is_local()
        trainer: Any = _lone_worker_trainer() if lone else None
        from ray.train import FailureConfig

        api: Any = importlib.import_module("ray.train")  # V2's: a type checker sees V1's
        fewest_and_most = group.max_workers if trainer else (group.min_workers, group.max_workers)
        scaling = {"num_workers": fewest_and_most, "use_gpu": group.use_gpu, "resources_per_worker": group.resources}
        options: dict[str, Any] = {
            "train_loop_config": config,
            "scaling_config": api.ScalingConfig(**scaling, elastic_resize_monitor_interval_s=RESIZE_SECONDS),
            "run_config": api.RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=group.max_failures),
                worker_runtime_env={"env_vars": ahead.worker_environment() if trainer else trainer_process.kept_memory(os.environ)},
            ),
        }
        if trainer is None:
            os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = START_SECONDS
            from ray.train.torch import TorchConfig

            from components.cluster.elastic import ElasticTrainer

            options["torch_config"] = TorchConfig(backend="nccl" if group.use_gpu else "gloo")
            trainer = partial(ElasticTrainer, together=group.together, newest=group.newest)
        outcome.told = trainer(train_worker, **options).fit().return_value
    except BaseException as error:
        outcome.error = error


def _lone_worker_trainer() -> Any:
    """Answers the trainer that is quick to start for one worker on this machine, or None where this Ray has other insides."""
    try:
        from components.cluster.lone_worker import LoneWorkerTrainer
    except ImportError:
        logger.warning("this Ray has other insides than the pinned one, so a training starts slower")
        return None
    ahead.start_worker_process(LOCAL_ENVIRONMENT)
    return LoneWorkerTrainer


def train_worker(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What each worker runs: threads, device and process group in a context, then the entry by its name.

    Returns:
        A lone worker's error; raised, Ray would only start it twice more to fail the same way.
    """
    import ray.train

    place = ray.train.get_context()
    rank, world_size = place.get_world_rank(), place.get_world_size()
    with contextlib.suppress(OSError):
        os.chdir(config["folder"])
    try:
        with _alone(Path(f"{config['metrics_file']}.{rank}.lock")):
            _import_torch(config["threads"])
            device = "cuda:0" if config["use_gpu"] else "cpu"
            if world_size > 1:
                from ray.train.torch import get_device

                device = str(get_device())
            wrap, sharded = _wrapper(world_size, device), config["sharded"] and world_size > 1
            context = load(CONTEXT)(rank, world_size, device, config["threads"], Path(config["metrics_file"]), wrap, sharded)
            load(config["entry"])(dict(config["payload"]), dataclasses.replace(context, beside=Beside() if rank == 0 else None))
    except Exception as error:
        with contextlib.suppress(OSError):
            Path(config["trace_file"]).write_text(traceback.format_exc())
        if world_size > 1:
            raise  # the others wait for this rank; Ray ends them
        return _told(error)
    return None


def load(name: str) -> Any:
    """Answers the object that "module:name" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _import_torch(threads: int) -> None:
    if threads > 1 and "torch" not in sys.modules:
        trainer_process.let_threads_wait_awake()
    import torch

    torch.set_num_threads(threads)
    for method in vars(torch.optim.Optimizer).values():
        # the first optimiser would import all of torch.compile, for seconds, only to keep these methods out of it
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            setattr(plain, "__dynamo_disable", plain)


def _wrapper(world_size: int, device: str) -> Callable[[Any], Any]:
    if world_size == 1:
        return _unwrapped
    from torch.nn.parallel import DistributedDataParallel

    devices = [device] if device.startswith("cuda") else None
    return lambda model: DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)  # which holds gradients once


def _unwrapped(model: Any) -> Any:
    return model


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock for as long as this worker lives, after waiting for the worker of a killed run to notice its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        until = time.monotonic() + WAIT_FOR_OLD_WORKER_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TrainingFailedError(f"another process still trains here (`{path}` is locked); hint: end it first") from None
                time.sleep(0.2)
        yield


def _told(error: BaseException) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": "other", "type": type(error).__name__, "message": str(error)}
    if isinstance(error, OSError) and error.errno:
        return told | {"kind": "OSError", "arguments": [error.errno, error.strerror, str(error.filename) if error.filename else None]}
    match lacks(error):
        case "disk":
            return told | {"kind": "OSError", "arguments": [errno.ENOSPC, os.strerror(errno.ENOSPC), None]}
        case "memory":
            return told | {"kind": "memory"}
    return told | ({"kind": "ValueError"} if isinstance(error, ValueError) else {})


def _raise_error(outcome: _Outcome, entry: str, folder: Path, max_failures: int) -> None:
    told, cause = outcome.told, outcome.error
    failures = getattr(cause, "worker_failures", None)
    if failures:  # of several workers, the one that raised says more than those that lost it
        cause = min(failures.values(), key=lambda error: (not comes_again(raised(error)), is_a_death(error)))
        told = None if is_a_death(cause) else _told(raised(cause))
    if told is not None:
        match told["kind"]:
            case "OSError":
                raise OSError(*told["arguments"])
            case "ValueError":
                raise ValueError(_one_line(told["message"]))
            case "memory":
                what = _one_line(". ".join(told["message"].split(". ")[:2])).rstrip(".") or told["type"]
                raise TrainingFailedError(f"a training worker of `{entry}` had too little memory ({what}); hint: {MORE_MEMORY}")
        sentence = _one_line(told["message"]) or "without a word"
        story = ("; " if "; hint: " in sentence else "; hint: ") + f"the whole story is in `{folder / 'error.txt'}`"
        raise TrainingFailedError(f"`{entry}` ended with {told['type']}: {sentence}{story}")
    if cause is not None:
        no_room = getattr(cause, "controller_failure", None)
        if type(no_room).__name__ == "NoRoomError":
            raise TrainingFailedError(f"{no_room}; hint: fewer by `cluster.min_workers`, and the same command goes on") from cause
        raise TrainingFailedError(
            f"a training worker of `{entry}` died {max_failures + 1} times ({_one_line(str(cause)) or type(cause).__name__}); "
            f"hint: memory is the usual cause; {MORE_MEMORY}"
        ) from cause


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else f"{line[:500]}..."


class _Tail:
    """Reads a metrics file as it grows; a step that was read once is not read again when a resumed worker rewrites it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_step = -1
        self.seen: tuple[int, int, int] | None = None

    def new_lines(self) -> list[tuple[int, dict[str, float]]]:
        try:
            state = self.path.stat()
            seen = (state.st_ino, state.st_size, state.st_mtime_ns)
            if seen == self.seen:
                return []
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        self.seen = seen
        found = []
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                metrics = json.loads(line)
                step = int(metrics.pop("step"))
                if step > self.last_step:
                    self.last_step = step
                    found.append((step, metrics))
        return found
