"""The one lease of a project and stage among machines that share a storage: a row of a table, renewed while its holder works.

Whether a holder is gone is told by its row standing still for a while by the waiting machine's own clock, never by comparing clocks.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.store.filters import quoted
from components.store.project import Project, StageBusyError
from components.store.tables import Table

logger = logging.getLogger("kinora")

FORGET = "forget"  # whose lease keeps every stage of the project from beginning
RENEW_SECONDS, GONE_SECONDS, LOOK_SECONDS = 15.0, 60.0, 1.0


@contextlib.contextmanager
def leased(project: Project, stage: str, me: Mapping[str, Any], lives: Callable[[Mapping[str, Any]], bool | None]) -> Iterator[None]:
    """Holds the lease of a stage; without a storage the lock of this machine is enough, and nothing happens.

    Args:
        me: says who this process is, to others and to `lives`.
        lives: answers whether a holder lives, None where that cannot be known from here.

    Raises:
        StageBusyError: a process of another machine holds it and works, or takes footage of the project down.
    """
    if project.storage is None:
        yield
        return
    table, name = _table(project), uuid.uuid4().hex
    _take(table, project, stage, name, me, lives)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(project, stage, name, done), name=f"lease-{stage}", daemon=True)
    renewing.start()
    try:
        if stage != FORGET and (holder := _at_work(table, f"stage = {quoted(FORGET)}", lives)) is not None:
            raise StageBusyError(
                f"footage of project `{project.name}` is being taken down (process {holder.get('pid')} of `{holder.get('host')}`); "
                "hint: the same command when that is over"
            )
        yield
    finally:
        done.set()
        renewing.join()
        try:
            table.delete(_of(stage, name))
            table.compact()
        except Exception as error:  # the work is done, or has an error of its own to tell
            logger.warning("the lease of `%s` was not given back, it goes with this process: %s", stage, _short(error))


def refuse_others(project: Project, lives: Callable[[Mapping[str, Any]], bool | None]) -> None:
    """Refuses a take-down while a stage holds a lease; the caller holds that of `forget`, so no later one begins.

    Raises:
        StageBusyError: a stage works on another machine.
    """
    if project.storage is None:
        return
    holder = _at_work(_table(project), f"stage <> {quoted(FORGET)}", lives)
    if holder is not None:
        raise StageBusyError(
            f"`{holder['stage'].partition(':')[0]}` of project `{project.name}` is running (process {holder.get('pid')} of "
            f"`{holder.get('host')}`), and what it reads cannot be taken down meanwhile; hint: the same command when it is over"
        )


def _take(
    table: Table, project: Project, stage: str, name: str, me: Mapping[str, Any], lives: Callable[[Mapping[str, Any]], bool | None]
) -> None:
    row = {"stage": stage, "name": name, "holder": json.dumps(dict(me)), "beat": 0}
    while True:
        table.append([row])  # nobody's, or it stays as it is
        if table.count(_of(stage, name)):
            return
        if (holder := _at_work(table, f"stage = {quoted(stage)}", lives)) is not None:
            raise StageBusyError(
                f"`{stage}` of project `{project.name}` is already running (process {holder.get('pid')} of `{holder.get('host')}`); "
                "hint: wait for it, or use another `--project`"
            )


def _at_work(table: Table, where: str, lives: Callable[[Mapping[str, Any]], bool | None]) -> dict[str, Any] | None:
    """Answers a holder who works among those that a filter matches, None when there is none; the rows of dead ones are removed."""
    seen: dict[str, tuple[int, float]] = {}  # the beat of each and since when it stands, by our clock
    while rows := table.read(["stage", "name", "holder", "beat"], where):
        waits = False
        for row in rows:
            holder, now = json.loads(row["holder"]), time.monotonic()
            beat, since = seen.setdefault(row["name"], (row["beat"], now))
            alive = lives(holder)
            if alive or beat != row["beat"]:
                return {**holder, "stage": row["stage"]}
            if alive is False or now - since > GONE_SECONDS:
                table.delete(f"{_of(row['stage'], row['name'])} AND beat = {row['beat']}")
            else:
                waits = True
        if waits:
            time.sleep(LOOK_SECONDS)
    return None


def _renew(project: Project, stage: str, name: str, done: threading.Event) -> None:
    table = _table(project)
    while not done.wait(RENEW_SECONDS):
        try:
            if table.count(_of(stage, name)) == 0:
                logger.warning("the lease of `%s` went to another machine, which took this one for dead; both go on", stage)
                return
            table.change({"beat": "beat + 1"}, _of(stage, name))
        except Exception as error:  # the storage may be away for a moment; what is lost at worst is the lease
            logger.warning("the lease of `%s` was not renewed, it is tried again: %s", stage, _short(error))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _of(stage: str, name: str) -> str:
    return f"stage = {quoted(stage)} AND name = {quoted(name)}"


def _table(project: Project) -> Table:
    import pyarrow as pa

    fields = [("stage", pa.string()), ("name", pa.string()), ("holder", pa.string()), ("beat", pa.int64())]
    schema = pa.schema([pa.field(name, kind, nullable=name != "stage") for name, kind in fields])
    return Table.open(project.table("leases"), schema, "stage")
