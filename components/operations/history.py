"""What stages took before, kept line by line, and what the next one will take: seconds and bytes by row or by step."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from components.sections import Config
from components.stages import STAGES, TRAIN_STAGES, digest
from components.store import tables
from components.store.filters import CAPTIONED, READY
from components.store.project import Project
from components.train.context import fitted_steps

NEWEST = 5  # lines of the same kind of work that an expectation is the middle of
WHOLE = ("evaluate", "promote")  # what these take does not depend on how many rows are new
SHAPING = ("size", "batch_size", "tokens_per_batch", "num_seen_prompts", "num_unseen_prompts", "num_inference_steps")


@dataclass(frozen=True)
class Expected:
    """What a stage will likely take; null without history."""

    seconds: float | None
    num_bytes: int | None


def history_file(project: Project) -> Path:
    return project.folder / "state" / "history.jsonl"


def remember(project: Project, config: Config, record: Mapping[str, Any]) -> None:
    """Adds a line of what a finished stage took."""
    stage, spent = record["stage"], record["spent"]
    line = {
        "stage": stage,
        "kind": kind_of_work(stage, config),
        "rows": record["rows"],
        "worked": spent["worked"],
        "seconds": record["seconds"],
        "work_seconds": spent["work_seconds"],
        "core_seconds": spent["core_seconds"],
        "gpu_seconds": spent["gpu_seconds"],
        "bytes": spent["num_bytes"],
        "finished_at": record["finished_at"],
    }
    path = history_file(project)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:  # one write of a short line: two runs do not mix theirs
        handle.write(json.dumps(line) + "\n")


def read_history(project: Project, stage: str) -> list[dict[str, Any]]:
    """Answers the lines of a stage, oldest first; one that a kill cut is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in history_file(project).read_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("stage") == stage:
                    found.append(entry)
    return found


def kind_of_work(stage: str, config: Config) -> str:
    """Answers a digest of what makes one row or step of a stage dear or cheap: the shape of clips, sizes, batches, the machines."""
    settings = config.model_dump(mode="json")
    sections = {*STAGES[stage].sections, stage} & set(settings)
    shaping = {f"{name}.{key}": settings[name][key] for name in sections for key in SHAPING if key in settings[name]}
    clip = {key: settings["clip"][key] for key in ("num_frames", "height", "width")}
    machines = {key: settings["cluster"][key] for key in ("num_workers", "threads", "use_gpu")} if stage in TRAIN_STAGES else {}
    return digest([shaping, clip, machines])[:16]


def planned_steps(config: Config, stage: str, clips: int) -> int:
    """Answers how many steps a training will take: for few clips, fewer than are set."""
    if stage == "train_vae" and config.vae.pretrained is not None and not config.vae.finetune:
        return 1  # it is measured
    settings = getattr(config, STAGES[stage].sections[0])
    most = getattr(settings, "max_epochs", None)
    if getattr(settings, "tokens_per_batch", None) is not None:
        return int(settings.steps)
    return int(settings.steps if most is None else fitted_steps(settings.steps, most, settings.batch_size, clips))


def clips_of_steps(project: Project, stage: str, rows: int, are_encoded: bool = True) -> int:
    """Answers how many of the rows that a training reads are clips that its steps see.

    The diffusion transformer sees those that have latents and text embeddings; before there are any, it will see those with captions.

    Args:
        rows: that it reads.
        are_encoded: False: more of them will be, before it begins.
    """
    if stage != "train_dit" or not tables.exists(project, "clips"):
        return rows
    clips = tables.clips(project)
    return (clips.count(READY) if are_encoded else 0) or clips.count(CAPTIONED) or rows


def expected(project: Project, config: Config, stage: str, work: int) -> Expected:
    """Answers what so many rows, or steps of a training, will take: the middle of the newest lines of the same kind of work.

    A start of its own is taken off each line before it is divided by its rows or steps, and added again.
    """
    lines = read_history(project, stage)
    alike = [line for line in lines if line["kind"] == kind_of_work(stage, config)] or lines
    alike = alike[-NEWEST:]
    if not alike:
        return Expected(None, None)
    if stage in WHOLE:
        return Expected(median(line["seconds"] for line in alike), round(median(line["bytes"] for line in alike)))
    worked = [line for line in alike if line["worked"]]
    if not worked:
        return Expected(median(line["seconds"] for line in alike), round(median(line["bytes"] for line in alike)))
    starts = median(line["seconds"] - line["work_seconds"] for line in worked)
    each = median(line["work_seconds"] / line["worked"] for line in worked)
    num_bytes = _bytes_of(stage, worked, work)
    return Expected(starts + each * work, num_bytes)


def _bytes_of(stage: str, lines: Sequence[Mapping[str, Any]], work: int) -> int:
    """A training keeps so many checkpoints and one model, however many steps it takes; a row stage writes row by row."""
    if stage in TRAIN_STAGES:
        return round(median(line["bytes"] for line in lines))
    return round(median(line["bytes"] / line["worked"] for line in lines) * work)
