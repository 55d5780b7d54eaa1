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

RENEW_SECONDS, GONE_SECONDS, LOOK_SECONDS = 15.0, 60.0, 1.0


@contextlib.contextmanager
def leased(project: Project, stage: str, me: Mapping[str, Any], lives: Callable[[Mapping[str, Any]], bool | None]) -> Iterator[None]:
    """Holds the lease of a stage; without a storage the lock of this machine is enough, and nothing happens.

    Args:
        me: says who this process is, to others and to `lives`.
        lives: answers whether a holder lives, None where that cannot be known from here.

    Raises:
        StageBusyError: a process of another machine holds it and works.
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
        yield
    finally:
        done.set()
        renewing.join()
        table.delete(_of(stage, name))
        table.compact()


def _take(
    table: Table, project: Project, stage: str, name: str, me: Mapping[str, Any], lives: Callable[[Mapping[str, Any]], bool | None]
) -> None:
    row = {"stage": stage, "name": name, "holder": json.dumps(dict(me)), "beat": 0}
    seen, seen_at = None, time.monotonic()
    while True:
        table.append([row])  # nobody's, or it stays as it is
        found = table.read(["name", "holder", "beat"], f"stage = {quoted(stage)}")
        if not found:
            continue
        now = (found[0]["name"], found[0]["beat"])
        if now[0] == name:
            return
        holder = json.loads(found[0]["holder"])
        alive = lives(holder)
        if alive or (seen is not None and now[0] == seen[0] and now[1] != seen[1]):
            raise StageBusyError(
                f"`{stage}` of project `{project.name}` is already running (process {holder.get('pid')} of `{holder.get('host')}`); "
                "hint: wait for it, or use another `--project`"
            )
        if alive is False or (now == seen and time.monotonic() - seen_at > GONE_SECONDS):
            table.delete(f"{_of(stage, now[0])} AND beat = {now[1]}")
            continue
        if now != seen:
            seen, seen_at = now, time.monotonic()
        time.sleep(LOOK_SECONDS)


def _renew(project: Project, stage: str, name: str, done: threading.Event) -> None:
    table = _table(project)
    while not done.wait(RENEW_SECONDS):
        try:
            if table.count(_of(stage, name)) == 0:
                logger.warning("the lease of `%s` went to another machine, which took this one for dead; both go on", stage)
                return
            table.change({"beat": "beat + 1"}, _of(stage, name))
        except Exception as error:  # the storage may be away for a moment; what is lost at worst is the lease
            logger.warning("the lease of `%s` was not renewed, it is tried again: %s", stage, " ".join(str(error).split())[:200])


def _of(stage: str, name: str) -> str:
    return f"stage = {quoted(stage)} AND name = {quoted(name)}"


def _table(project: Project) -> Table:
    import pyarrow as pa

    fields = [("stage", pa.string()), ("name", pa.string()), ("holder", pa.string()), ("beat", pa.int64())]
    schema = pa.schema([pa.field(name, kind, nullable=name != "stage") for name, kind in fields])
    return Table.open(project.table("leases"), schema, "stage")
