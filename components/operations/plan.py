"""What a run would do, before anything heavy starts: run or skip, why, how many rows, how long, from which checkpoint."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.config import Config
from components.operations.freshness import Freshness, assess, finished
from components.stages import STAGES, TRAIN_STAGES
from components.store.project import Project

STEP_FOLDER = re.compile(r"step_\d{6,}")
FLOW_STAGES: dict[str, tuple[str, ...]] = {
    "footage_to_model": tuple(STAGES),
    "ingest": ("ingest", "curate"),
    **{name: (name,) for name in STAGES if name not in ("ingest", "curate")},
}


@dataclass(frozen=True)
class SourceSpec:
    """Where footage comes from; a folder of None is the synthetic world."""

    folder: Path | None
    manifest: Path | None


@dataclass(frozen=True)
class StagePlan:
    """What a run would do with one stage; seconds_expected is null without history."""

    stage: str
    action: str  # run or skip
    why: str
    rows: int  # to work on; 0 when skipped
    seconds_expected: float | None
    resumes_from: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: Config, project: Project, source: SourceSpec, stages: Sequence[str] = tuple(STAGES)) -> list[StagePlan]:
    """Answers what a run of these stages would do, in order; it writes nothing.

    Raises:
        ValueError: the source or its manifest is not there.
    """
    plans: dict[str, StagePlan] = {}
    changed: set[str] = set()  # stages whose output will be made by another maker, or anew
    for stage in stages:
        found = assess(stage, config, project, source.folder, source.manifest)
        above = [name for name in STAGES[stage].upstream if name in plans and plans[name].action == "run"]
        runs, why = _decide(stage, found, above, changed)
        if runs and _makes_anew(stage, found, project, above, changed):
            changed.add(stage)
        plans[stage] = StagePlan(
            stage=stage,
            action="run" if runs else "skip",
            why=why,
            rows=found.todo if runs else 0,
            seconds_expected=_seconds(found, project) if runs else None,
            resumes_from=newest_step(project.checkpoints(stage, found.key)) if runs and stage in TRAIN_STAGES else None,
        )
    return list(plans.values())


def newest_step(folder: Path) -> str | None:
    """Answers the name of the newest finished checkpoint of a training, judged by its manifest being there."""
    whole = [place.parent.name for place in folder.glob("step_*/manifest.json") if STEP_FOLDER.fullmatch(place.parent.name)]
    return max(whole, key=lambda name: int(name.removeprefix("step_")), default=None)


def _decide(stage: str, found: Freshness, above: list[str], changed: set[str]) -> tuple[bool, str]:
    if not found.fresh:
        return True, found.why
    if not above:
        return False, found.why
    if stage in ("train_captioner", "train_vae") and not changed.intersection(above):
        return False, f"the model serves, unless `{above[-1]}` brings enough rows for a retrain"
    return True, f"after `{above[-1]}`"


def _makes_anew(stage: str, found: Freshness, project: Project, above: list[str], changed: set[str]) -> bool:
    """Answers whether what stands on this stage is made by somebody else afterwards, and not only joined by new rows."""
    record = finished(stage, project)
    return stage in TRAIN_STAGES or record is None or record["maker"] != found.maker or bool(changed.intersection(above))


def _seconds(found: Freshness, project: Project) -> float | None:
    record = finished(found.stage, project)
    if record is None or "seconds" not in record:
        return None
    share = found.todo / max(1, int(record["rows"])) if found.stale and found.todo else 1.0
    return float(record["seconds"]) * min(1.0, share)
