"""The finished model that a training of the diffusion transformer goes on from, where `dit.finetune` names one."""

import contextlib
import logging
from pathlib import Path

from components.jobs.run import Run
from components.operations.finetune import base_model, carried, carried_place
from components.operations.freshness import Freshness
from components.registry import models
from components.registry.models import Kind
from components.store import readings

logger = logging.getLogger("kinora")

KIND: Kind = "text-to-video"


def base_of(run: Run, freshness: Freshness) -> Path | None:
    """Answers the folder of the model to go on from, None where a training begins anew.

    A training that goes on after a kill keeps the one it began with, whatever an alias points at by now.

    Raises:
        ModelNotFoundError: there is no such model; says what there is.
    """
    if run.config.dit.finetune is None:
        return None
    head = readings.read_head(run.project, freshness.stage, freshness.key) or {}
    begun = head.get("stands_on", {}).get(KIND)
    with contextlib.suppress(ValueError):  # what it began with may be gone from where its name leads
        if begun and (named := base_model(run.config, run.project)) is not None and named.weights != begun:
            logger.info("the training goes on from the model it began with; `%s` is another by now", named.reference)
    if begun and (place := carried_place(run.project, begun)).is_dir():
        return place
    if begun and (known := models.of_weights(run.project, KIND, begun)):
        return carried(run.project, models.download(run.project, known).resolve())
    base = base_model(run.config, run.project)
    assert base is not None
    return base.folder


def address_of(run: Run, folder: Path | None) -> str | None:
    """Answers where the registry has the model that `dit.finetune` names; None where a training goes on from another, or it has not."""
    named = base_model(run.config, run.project)
    return named.name if named is not None and named.folder == folder else None
