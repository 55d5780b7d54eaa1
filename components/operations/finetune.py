"""The finished model that `dit.finetune` names: its video VAE and text encoder serve in place of a project's own.

A training that goes on from a model can learn from nothing but latents and text embeddings of the kind which that model knows. So
what is encoded, and what is exported, is the base's, and nothing is trained in its place.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from components.fitting import check_budget, check_clips, check_context_parallel, check_lora_rank
from components.models.sizes import DitSize
from components.models.weights import digest_folder, load_json, read_manifest
from components.sections import Config
from components.store import mirror, readings
from components.store.project import Project

CAPTIONER = "text-encoder/kinora.json"  # where the text encoder is that of a captioner


class NoBaseError(ValueError):
    """What `dit.finetune` names cannot be trained further; the message says why."""


@dataclass(frozen=True)
class Base:
    """A finished text-to-video model.

    Attributes:
        reference: what a person named it by; name: `models:/NAME/3` of one that is registered.
        weights, video_vae, text_encoder: digests of its folder and of those two in it.
        frames, side: of a clip that one latent holds.
        captions: whether its text encoder is a captioner that learned to caption.
    """

    reference: str
    name: str | None
    folder: Path
    weights: str
    size: DitSize
    frames: int
    side: int
    video_vae: str
    text_encoder: str
    captions: bool

    @property
    def vae_folder(self) -> Path:
        return self.folder / "video-vae"

    @property
    def text_encoder_folder(self) -> Path:
        return self.folder / "text-encoder"


def base_model(config: Config, project: Project) -> Base | None:
    """Answers the model that `dit.finetune` names, None where it names none; an alias means the same one as long as a process lives.

    Raises:
        ModelNotFoundError: there is no such model; says what there is.
        NoBaseError: it is of another kind.
        ValueError: clips, workers, a step or adapters do not fit it.
    """
    if config.dit.finetune is None:
        return None
    base = _found(project, config.dit.finetune, os.environ.get("MLFLOW_TRACKING_URI"))
    whose = f"`{base.reference}`"
    check_clips(config.clip, base.frames, base.side, f"the video VAE of {whose}")
    check_context_parallel(config.dit.context_parallel, base.size, whose)
    check_budget(config.dit, config.clip, config.cluster, base.size, base.frames, base.side)
    check_lora_rank(config.dit.lora_rank, base.size, whose)
    return base


def moves(base: Base, project: Project) -> bool:
    """Answers whether a base is named by what the project's own runs move to another version: one of its aliases, or the latest one."""
    if base.name is None:
        return False
    from components.registry import models

    wanted = base.reference.rpartition("/")[2]
    own = base.name.removeprefix("models:/").rpartition("/")[0] == models.registered_name(project, "text-to-video")
    return own and not wanted.isdigit() and models.LOGGED_MODEL.fullmatch(wanted) is None


@lru_cache(maxsize=16)
def _found(project: Project, reference: str, tracking: str | None) -> Base:
    """Looks a model up, once for each registry."""
    from components.registry import models

    folder = models.resolve(project, "text-to-video", reference).resolve()
    version = None if folder == Path(reference).resolve() else models.lookup(project, "text-to-video", reference)
    if "dit.json" not in read_manifest(folder):
        raise NoBaseError(
            f"`{reference}` is no text-to-video model, so `dit.finetune` cannot go on from it; hint: `kinora show models` lists them"
        )
    return _read(reference, f"models:/{version.name}/{version.number}" if version else None, carried(project, folder))


def _read(reference: str, name: str | None, folder: Path) -> Base:
    size, noted = load_json(folder, "dit")["size"], load_json(folder / "video-vae", "vae")
    of_vae = noted.get("size", noted)  # of diffusers' it is beside what they are built from
    captioner = load_json(folder / "text-encoder", "kinora") if CAPTIONER in read_manifest(folder) else None
    return Base(
        reference=reference,
        name=name,
        folder=folder,
        weights=digest_folder(folder),
        size=DitSize(**{**size, "patch_size": tuple(size["patch_size"])}),
        frames=int(of_vae["temporal_compression_ratio"]),
        side=int(of_vae["spatial_compression_ratio"]),
        video_vae=digest_folder(folder / "video-vae"),
        text_encoder=digest_folder(folder / "text-encoder"),
        captions=captioner is not None and captioner["origin"] != "untrained",
    )


def carried(project: Project, folder: Path) -> Path:
    """Answers a model's folder; with a storage a copy, which that takes along to other machines."""
    if project.storage is None:
        return folder
    place = carried_place(project, digest_folder(folder))
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".base-", dir=place.parent) as draft:
            shutil.copytree(folder, Path(draft) / "whole")
            os.replace(Path(draft) / "whole", place)
        mirror.push(project)
    return place


def carried_place(project: Project, weights: str) -> Path:
    """Answers where the copy of a model with this digest lies."""
    return project.folder / "models" / "bases" / weights[: readings.KEY_LENGTH]
