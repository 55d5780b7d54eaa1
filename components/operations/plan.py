"""What a run would do, before anything heavy starts: run or skip, why, how many rows, how long, how much disk, from which checkpoint."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.operations.freshness import Freshness, assess, finished, upstream_of
from components.operations.history import clips_of_steps, expected, planned_steps
from components.sections import Config
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
    """What a run would do with one stage; what is expected is null without history."""

    stage: str
    action: str  # run or skip
    why: str
    rows: int  # to work on; 0 when skipped
    seconds_expected: float | None
    bytes_expected: int | None
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
    grown = 0.0  # by which share of what there is new footage adds to it
    for stage in stages:
        found = assess(stage, config, project, source.folder, source.manifest)
        above = [name for name in upstream_of(stage, config, project) if name in plans and plans[name].action == "run"]
        runs, why = _decide(stage, found, above, changed)
        if not runs:
            plans[stage] = StagePlan(stage, "skip", why, 0, None, None, None)
            continue
        anew = bool(changed.intersection(above))
        if _makes_anew(stage, found, project, anew):
            changed.add(stage)
        elif stage == "ingest":
            grown = found.left / max(1, found.rows - found.left)
        resumes = stage in TRAIN_STAGES and not above  # after new rows it is another training
        checkpoint = resumes_from(project, stage, found.key) if resumes else None
        takes = expected(project, config, stage, _work(project, config, found, above, checkpoint, anew, grown))
        plans[stage] = StagePlan(stage, "run", why, found.todo, takes.seconds, takes.num_bytes, checkpoint)
    return list(plans.values())


def resumes_from(project: Project, stage: str, key: str) -> str | None:
    """Answers the name of the checkpoint that a training would go on from: the newest one here or in the project's storage.

    Raises:
        StorageError, StorageAwayError: the storage cannot be asked.
    """
    here = newest_step(project.checkpoints(stage, key))
    if project.storage is None:
        return here
    from components.store.checkpoints import storage_of, whole_steps

    there = whole_steps(storage_of(project, project.checkpoints(stage, key)))
    names = [*([here] if here else []), *(f"step_{step:06d}" for step in there)]
    return max(names, key=_number, default=None)


def newest_step(folder: Path) -> str | None:
    """Answers the name of the newest finished checkpoint of a training, judged by its manifest being there."""
    whole = [place.parent.name for place in folder.glob("step_*/manifest.json") if STEP_FOLDER.fullmatch(place.parent.name)]
    return max(whole, key=_number, default=None)


def _number(step: str) -> int:
    return int(step.removeprefix("step_"))


def short_of_disk(plans: Sequence[StagePlan], project: Project) -> str | None:
    """Says in a sentence that what the stages will likely write does not fit on the disk; None where it does, or nothing is known."""
    needed, free = sum(stage.bytes_expected or 0 for stage in plans), free_bytes(project.folder)
    if needed <= free:
        return None
    first, before = "", 0
    for stage in plans:
        before += stage.bytes_expected or 0
        if before > free:
            first = stage.stage
            break
    return (
        f"the run will likely write {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free in `{project.root}`, "
        f"so the disk will be full in `{first}`; hint: free some space, or `--set root=FOLDER` on another disk"
    )


def free_bytes(folder: Path) -> int:
    """Answers how much is free where a folder is, or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _work(
    project: Project, config: Config, found: Freshness, above: Sequence[str], checkpoint: str | None, anew: bool, grown: float
) -> int:
    """Answers how many rows, or steps of a training, are to be done: after new footage those that it will likely bring too."""
    stage = found.stage
    if stage in TRAIN_STAGES:
        clips = clips_of_steps(project, stage, found.rows, are_encoded="encode" not in above)
        steps = planned_steps(config, stage, round(clips * (1.0 + grown)))
        return max(0, steps - _number(checkpoint or "step_0"))
    return found.rows if anew else found.todo + (round(found.rows * grown) if stage != "ingest" else 0)


def _decide(stage: str, found: Freshness, above: list[str], changed: set[str]) -> tuple[bool, str]:
    if not found.fresh:
        return True, found.why
    if not above:
        return False, found.why
    if stage in ("train_captioner", "train_vae") and not changed.intersection(above):
        return False, f"the model serves, unless `{above[-1]}` brings enough rows for a retrain"
    return True, f"after `{above[-1]}`"


def _makes_anew(stage: str, found: Freshness, project: Project, anew: bool) -> bool:
    """Answers whether what stands on this stage is made by somebody else afterwards, and not only joined by new rows."""
    record = finished(stage, project)
    return stage in TRAIN_STAGES or record is None or record["maker"] != found.maker or anew
