"""The three trainings: each one Ray Train job whose metrics the driver carries to MLflow and to whoever watches."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.cluster.training import fit
from components.jobs.run import Run
from components.operations.freshness import Freshness, model_folder
from components.models.weights import DamagedFolderError, digest_folder
from components.registry.tracking import Tracker
from components.stages import STAGES


def train_captioner(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the OpenCLIP CoCa captioner, takes a pretrained one, or leaves it, as `components.caption.captioner` chooses."""
    return _train(run, freshness, "components.train.captioner_job:run", {})


def train_vae(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the causal video VAE."""
    return _train(run, freshness, "components.train.vae_job:run", {})


def train_dit(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the diffusion transformer, and exports it with the VAE and the text encoder it was trained against."""
    return _train(
        run,
        freshness,
        "components.train.dit_job:run",
        {
            "video_vae": str(model_folder("train_vae", run.project)),
            "text_encoder": str(model_folder("train_captioner", run.project)),
        },
    )
