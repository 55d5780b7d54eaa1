"""Batches of rows through copies of one stage: here in a plain loop, or side by side in Ray's actors."""

import contextlib
import importlib
import logging
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from components.cluster.reserved import hold
from components.cluster.session import ray_is_local
from components.store import mirror
from components.store.project import Project

logger = logging.getLogger("kinora")

MAX_RESTARTS = 4
IN_FLIGHT_EACH = 2  # one at work and one waiting, so an actor never idles and the source is read no faster than needed
WARN_AFTER_SECONDS = 120
WAIT_FOR_ROOM_SECONDS = 1800.0  # for the first actor of a cluster that may still grow


class StageFailedError(RuntimeError):
    """A stage that raised or died; the message is the cause in one sentence."""


class _Host:
    """An actor's inside: the stage by name, built on first use so that its error is an error like any other."""

    def __init__(self, module: str, name: str, args: tuple[Any, ...], project: Project | None = None) -> None:
        self.place = (module, name)
        self.args = args
        self.project = project

    @cached_property
    def stage(self) -> Any:
        module, name = self.place
        if self.project is not None:
            mirror.pull(self.project)  # on another machine its models are not there yet
        return getattr(importlib.import_module(module), name)(*self.args)

    def build(self) -> None:
        """Loads the stage's weights."""
        _ = self.stage

    def apply(self, batch: Any) -> Any:
        """Answers the stage's result for one batch."""
        return self.stage(batch)


def map_batches(
    cls: type,
    args: tuple[Any, ...],
    batches: Iterable[Any],
    *,
    num_actors: int,
    cpus_per_actor: float,
    gpus_per_actor: float = 0.0,
    project: Project | None = None,
) -> Iterator[tuple[int, Any]]:
    """Applies `cls(*args)` to each batch and answers (index, result) as they come, in any order, each index once.

    A killed actor is started again and given the batches it had, so a stage must not mind seeing one twice.

    Args:
        cls: a module-level class with `__call__(batch) -> result`; its weights are loaded once an actor.
        batches: read lazily, at most two ahead of each actor.
        num_actors: 0 applies the stage in this process, without Ray; else a `ray_session` must be around. Fewer are started
            where the machine has not CPUs enough.
        project: whose models the stage loads; with a storage each actor first brings them to its machine.

    Raises:
        ValueError, OSError: what the stage raised, when it is one of these; or it asks for more CPUs than there are.
        StageFailedError: the stage raised something else, or its process died more than four times.
    """
    if num_actors == 0:
        stage = cls(*args)
        for place, batch in enumerate(batches):
            yield place, stage(batch)
        return
    import ray

    actors = _start(cls, args, project, num_actors, cpus_per_actor, gpus_per_actor)
    release = hold(len(actors) * cpus_per_actor, len(actors) * gpus_per_actor)
    source, exhausted, in_flight = enumerate(batches), False, 0
    # an actor is given batches only once it stands, so none waits for an actor that finds no room
    began = time.monotonic()
    waiting: dict[Any, tuple[Any, int | None]] = {actor.build.remote(): (actor, None) for actor in actors}
    try:
        while not exhausted or in_flight:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=WARN_AFTER_SECONDS)
            if not done:
                if not in_flight:
                    logger.warning("`%s` waits for room in Ray", cls.__name__)
                    if time.monotonic() - began > WAIT_FOR_ROOM_SECONDS:
                        raise StageFailedError(
                            f"Ray has had no room for `{cls.__name__}` for {WAIT_FOR_ROOM_SECONDS / 60:.0f} minutes; "
                            "hint: `ray status` says what its nodes are busy with"
                        )
                continue
            began = time.monotonic()
            actor, index = waiting.pop(done[0])
            result = _answer(done[0], cls.__name__)
            in_flight -= index is not None
            for _ in range(IN_FLIGHT_EACH if index is None else 1):
                pair = None if exhausted else next(source, None)
                if pair is None:
                    exhausted = True
                    break
                waiting[actor.apply.remote(pair[1])] = (actor, pair[0])
                in_flight += 1
            if index is not None:
                yield index, result
    finally:
        release()
        # one that still loads its weights ends by itself, as nobody holds it any more: killed, it would be started again and complain
        loading = {actor for actor, index in waiting.values() if index is None}
        for actor in actors:
            if actor not in loading:
                with contextlib.suppress(Exception):
                    ray.kill(actor)


def _start(cls: type, args: tuple[Any, ...], project: Project | None, num_actors: int, cpus: float, gpus: float) -> list[Any]:
    import ray

    room = _room_here(cls, num_actors, cpus, gpus) if ray_is_local() else num_actors  # a cluster may still grow
    host = ray.remote(_Host).options(num_cpus=cpus, num_gpus=gpus, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)
    return [host.remote(cls.__module__, cls.__qualname__, args, project) for _ in range(room)]


def _room_here(cls: type, num_actors: int, cpus: float, gpus: float) -> int:
    import ray

    has, room = ray.cluster_resources(), num_actors
    for resource, each in (("CPU", cpus), ("GPU", gpus)):
        if each > has.get(resource, 0):
            raise ValueError(f"`{cls.__name__}` asks for {each:g} {resource}s an actor and this Ray has {has.get(resource, 0):g}")
        room = min(room, int(has[resource] / each)) if each else room
    return room


def _answer(reference: Any, name: str) -> Any:
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        sentence = _one_line(cause)
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, cause.filename) from error
        if isinstance(cause, ValueError):
            raise ValueError(sentence) from error
        raise StageFailedError(f"`{name}` ended with {type(cause).__name__}: {sentence}") from error
    except RayActorError as error:
        raise StageFailedError(
            f"the process of `{name}` died {MAX_RESTARTS + 1} times; hint: memory is the usual cause, try a smaller batch_size"
        ) from error


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= 500 else f"{line[:500]}..."
