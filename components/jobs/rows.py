"""Row stages over the clips table: the same batches whatever was done before, written as they come."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from components.cluster.rows import map_batches
from components.jobs.run import Run
from components.sections import Actors
from components.store.tables import Table

ROWS_PER_COMMIT = 512
Rows = list[dict[str, Any]]


def fixed_batches(keys: Sequence[str], stale: Iterable[str], size: int) -> list[list[str]]:
    """Cuts all keys into batches and answers those with a stale one in them.

    What a network answers for a row depends, in its last bits, on the batch it is in; batches that do not depend on what an
    earlier run got done make a resumed run equal to an unbroken one.
    """
    wanted = set(stale)
    batches = [list(keys[at : at + size]) for at in range(0, len(keys), size)]
    return [batch for batch in batches if wanted.intersection(batch)]


def map_rows(
    run: Run,
    stage: type,
    arguments: tuple[Any, ...],
    batches: Iterable[Rows],
    write: Callable[[Rows], None],
    *,
    actors: Actors,
    on_gpu: bool,
    total: int,
    note: str,
) -> None:
    """Sends batches of rows through a stage on Ray and writes what it answers some hundred rows at a time.

    Args:
        actors: how many, and what each asks for.
        on_gpu: whether the stage has a network that computes where `actors.device` says.
    """
    waiting: Rows = []
    done = 0
    answers = map_batches(
        stage,
        arguments,
        announced(batches, lambda: run.progress(0, total, note)),
        num_actors=actors.num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=actors.gpus_per_actor if on_gpu else 0.0,
        project=run.project,
    )
    for _, rows in answers:
        waiting += rows
        done += len(rows)
        if len(waiting) >= ROWS_PER_COMMIT:
            write(waiting)
            waiting = []
        run.progress(done, total, note)
    if waiting:
        write(waiting)


def announced(batches: Iterable[Any], begin: Callable[[], None]) -> Iterator[Any]:
    """Passes batches on, and calls `begin` when the first one is asked for: an actor stands, and work begins."""
    begin()
    yield from batches


def with_videos(table: Table, columns: Sequence[str], batches: Iterable[Sequence[str]]) -> Iterator[Rows]:
    """Reads the rows of each batch, the bytes of `video` among them, when the batch is wanted."""
    rows = {row["clip_id"]: row for row in table.read(["clip_id", *columns])}
    for batch in batches:
        yield [{**rows[key], "video": blob} for key, blob in table.read_blobs("video", list(batch))]
