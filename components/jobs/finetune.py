"""The finished model that a training of the diffusion transformer goes on from, where `dit.finetune` names one."""

import os
import shutil
import tempfile
from pathlib import Path

from components.jobs.run import Run
from components.models.weights import digest_folder
from components.operations.freshness import Freshness
from components.registry import models
from components.registry.models import Kind
from components.store import readings
from components.store.project import Project

KIND: Kind = "text-to-video"


def base_of(run: Run, freshness: Freshness) -> Path | None:
    """Answers the folder of the model to go on from, None where a training begins anew.

    A training that goes on after a kill keeps the one it began with, whatever an alias points at by now.

    Raises:
        ModelNotFoundError: there is no such model; says what there is.
    """
    reference = run.config.dit.finetune
    if reference is None:
        return None
    head = readings.read_head(run.project, freshness.stage, freshness.key) or {}
    begun = head.get("stands_on", {}).get(KIND)
    if begun and (carried := _carried(run.project, begun)).is_dir():
        return carried
    known = models.of_weights(run.project, KIND, begun) if begun else None
    folder = models.download(run.project, known) if known else models.resolve(run.project, KIND, reference)
    return folder.resolve() if run.project.storage is None else _carry(run.project, folder)


def _carried(project: Project, weights: str) -> Path:
    return project.folder / "models" / "bases" / weights[: readings.KEY_LENGTH]


def _carry(project: Project, folder: Path) -> Path:
    """Puts a copy where the storage takes it along to workers on other machines."""
    place = _carried(project, digest_folder(folder))
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".base-", dir=place.parent) as draft:
            shutil.copytree(folder, Path(draft) / "whole")
            os.replace(Path(draft) / "whole", place)
    return place
