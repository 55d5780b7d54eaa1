"""Runs a stage of a run, or skips it: asks for freshness, holds the lock, keeps the record."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from components.jobs.run import Outcome, Run, timed
from components.operations.freshness import assess
from components.stages import STAGES, TRAIN_STAGES

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


def run_stage(run: Run, stage: str) -> Outcome:
    """Runs a stage unless nothing of it is stale, and writes down what it made.

    Raises:
        StageBusyError: another run of this project trains the same stage.
    """
    alone = run.project.lock(stage) if stage in (*TRAIN_STAGES, "promote") else nullcontext()
    with alone:
        freshness = assess(stage, run.config, run.project, run.source, run.manifest)
        if freshness.fresh:
            record = run.project.record(stage) or {}
            return Outcome(stage, "skip", freshness.why, 0.0, record.get("result", {}))
        body: Callable[..., dict[str, Any]] = getattr(import_module(BODIES[stage]), stage)
        result, seconds = timed(lambda: body(run, freshness))
        after = assess(stage, run.config, run.project, run.source, run.manifest) if stage in ("ingest", "curate", "caption", "encode") else freshness
        run.project.write_record(
            stage,
            {
                "stage": stage,
                "title": STAGES[stage].title,
                "maker": after.maker,
                "rows": after.rows,
                "rows_digest": after.rows_digest,
                "result": result,
                "seconds": seconds,
                "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )
        return Outcome(stage, "run", freshness.why, seconds, result)
