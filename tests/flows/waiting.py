"""A flow in the place of `caption` that a test holds in its hand: it waits, fails once, or ends, as a folder of files says."""

import os
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.check_champion import try_no_more

HAND = "KINORA_TEST_HAND"  # the folder; each run adds a line to `ledger` in it


@flow(name="caption", persist_result=False)
def waiting(
    project: str | None = None,
    source: str | None = None,
    manifest: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
) -> None:
    hand = Path(os.environ[HAND])
    with (hand / "ledger").open("a") as ledger:
        ledger.write(f"{flow_run.get_id()} {os.getpid()}\n")
    if flow_run.get_run_count() == 1 and (hand / "fail").exists():
        raise RuntimeError("the first try fails")
    if (hand / "refuse").exists():
        try_no_more()
        raise RuntimeError("no try can mend this")
    while (hand / "wait").exists():
        time.sleep(0.2)
