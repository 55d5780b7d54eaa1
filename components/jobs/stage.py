"""Runs a stage of a run, or skips it: asks for freshness, holds the lock, keeps the record."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from components.jobs.run import Outcome, Run, timed
from components.jobs.watched import Watched
from components.operations.freshness import Freshness, assess, stage_settings
from components.operations.held import held, shared
from components.operations.history import remember
from components.operations.running import note_skip
from components.stages import STAGES, TRAIN_STAGES
from components.store import mirror
from components.store.turns import working

BODIES = {
    "ingest": "components.jobs.ingest",
    "curate": "components.jobs.curate",
    "train_captioner": "components.jobs.train",
    "caption": "components.jobs.caption",
    "train_vae": "components.jobs.train",
    "encode": "components.jobs.encode",
    "train_dit": "components.jobs.train",
    "evaluate": "components.jobs.evaluate",
    "promote": "components.jobs.promote",
}
LOCKED = (*TRAIN_STAGES, "promote")  # row stages of two runs may overlap


def at_once() -> None:
    """What a stage needs before it works, where everything is up already."""


def run_stage(run: Run, stage: str, ready: Callable[[], object] = at_once) -> Outcome:
    """Runs a stage unless nothing of it is stale, and writes down what it made.

    Args:
        ready: called once the stage is known to be stale and before it works: brings up what it needs.

    Raises:
        StageBusyError: another run of this project trains the same stage, or another machine takes its footage down.
    """
    with working(run.project), held(run.project, stage) if stage in LOCKED else shared(run.project, stage):
        mirror.pull(run.project)
        before = assess(stage, run.config, run.project, run.source, run.manifest)
        if before.fresh:
            mirror.push(run.project)  # what an earlier push could not
            return fresh_outcome(run, before)
        body: Callable[..., dict[str, Any]] = getattr(import_module(BODIES[stage]), stage)
        with Watched(run, stage, before) as watched:
            ready()
            result, seconds = timed(lambda: body(watched.run, before))
        record = {
            "stage": stage,
            "title": STAGES[stage].title,
            "maker": before.maker,
            "revision": STAGES[stage].revision,
            "settings": stage_settings(stage, run.config),
            "rows": before.rows,
            "rows_digest": before.rows_digest,
            "result": result,
            "seconds": seconds,
            "spent": watched.spent(seconds, result),
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        run.project.write_record(stage, record)
        remember(run.project, run.config, record)
        mirror.push(run.project)
        return Outcome(stage, "run", before.why, seconds, result)


def fresh_outcome(run: Run, before: Freshness) -> Outcome:
    """Answers the outcome of a stage of which nothing is stale: what its last run made."""
    record = run.project.record(before.stage) or {}
    note_skip(run.project, before.stage, before.why)
    return Outcome(before.stage, "skip", before.why, 0.0, record.get("result", {}))
