"""Does to a project what the jobs do to it, without any model: rows, makers, exported folders and records."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from components.config import load_config
from components.models.sizes import DIT_SIZES
from components.models.weights import digest_folder, new_folder, save_folder
from components.operations.finetune import base_model
from components.operations.freshness import (
    Freshness,
    assess,
    caption_maker,
    latents_maker,
    model_folder,
    serving_weights,
    stage_settings,
    text_maker,
)
from components.operations.history import planned_steps, remember
from components.operations.readings import note_weights, pin_reading
from components.sections import Config
from components.stages import STAGES, TRAIN_STAGES
from components.store import tables
from components.store.project import Project

VAE_FACTS = {"size": {"temporal_compression_ratio": 4, "spatial_compression_ratio": 8}}
CAPTIONER_FACTS = {"origin": "trained"}
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def settings(*overrides: str) -> Config:
    return load_config("test", overrides, file=str(REPOSITORY / "pipelines.yaml"))


def video_id(file: str) -> str:
    """The content hash of a film of this name."""
    return hashlib.sha256(file.encode()).hexdigest()


def pixels_of(number: int) -> bytes:
    """A clip's bytes, found nowhere else on a disk."""
    return hashlib.sha256(f"pixels of {number}".encode()).digest() * 4


def latents_of(clip_id: str) -> np.ndarray:
    """A clip's latents, whose bytes are found nowhere else on a disk."""
    seed = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(64).astype(np.float16)


def text_to_video(folder: Path, vae: Path | None = None, text_encoder: Path | None = None, frames: int = 4) -> Path:
    """Writes what stands for a finished text-to-video model, with the VAE and the captioner of folders or those of its own."""
    if vae is None:
        vae = folder.with_name(f"{folder.name}-vae")
        save_folder(vae, {}, {"vae": {"size": {**VAE_FACTS["size"], "temporal_compression_ratio": frames}, "of": folder.name}})
    if text_encoder is None:
        text_encoder = folder.with_name(f"{folder.name}-captioner")
        save_folder(text_encoder, {}, {"kinora": {**CAPTIONER_FACTS, "of": folder.name}})
    notes = {"size": asdict(DIT_SIZES["tiny"]), "of": folder.name}
    notes["contract"] = {"video_vae": digest_folder(vae), "text_encoder": digest_folder(text_encoder)}
    save_folder(folder, {}, {"dit": notes}, folders={"video-vae": vae, "text-encoder": text_encoder})
    return folder


class Pipeline:
    """A project whose stages are done by hand, each exactly as far as its freshness asks."""

    def __init__(self, root: Path, *overrides: str, source: Path | None = None) -> None:
        self.project = Project(root, "films")
        self.config = settings(*overrides)
        self.source = source

    def add_clips(self, *numbers: int, label: str | None = None, split: str = "train") -> None:
        """Adds clips as ingestion does; `split` is what curation will say of them."""
        tables.videos(self.project)
        tables.clips(self.project).append(
            [
                {
                    "clip_id": f"c{number:03d}",
                    "video_id": video_id(f"film-{number // 2}.mp4"),
                    "scene_index": number % 2,
                    "start_seconds": 2.0 * (number % 2),
                    "end_seconds": 2.0 * (number % 2) + 1.0,
                    "video": pixels_of(number),
                    "clip_by": "ingest",
                    "label_caption": label,
                    "label_by": f"manifest:{label}" if label else None,
                    "lent": label is not None,
                    "split": split,
                }
                for number in numbers
            ]
        )

    def add_files(self, *numbers: int) -> None:
        """Adds the files that clips of these numbers were cut from, two of each."""
        files = [f"film-{name}.mp4" for name in sorted({number // 2 for number in numbers})]
        tables.videos(self.project).append(
            [
                {
                    "video_id": video_id(file),
                    "uri": f"/footage/{file}",
                    "places": [f"/footage/{file}"],
                    "status": "accepted",
                    "num_clips": 2,
                }
                for file in files
            ]
        )

    def assess(self, stage: str) -> Freshness:
        return assess(stage, self.config, self.project, self.source, None)

    def run(self, *stages: str) -> None:
        """Does the stages that are stale and writes their records."""
        for stage in stages or tuple(STAGES):
            found = self.assess(stage)
            if not found.fresh:
                self.write(stage, found)
                self.record(stage, found)

    def write(self, stage: str, found: Freshness) -> None:
        clips = tables.clips(self.project)
        if stage == "curate":
            clips.update([{"clip_id": key, "keep": True, "curated_by": found.maker} for key in found.stale["curate"]])
        elif stage == "caption":
            rows = clips.read(["clip_id", "label_caption", "label_by"], tables.among("clip_id", found.stale["caption"]))
            for row in rows:
                row["caption_by"] = caption_maker(self.config, self.project, row.pop("label_by"))
                row["caption"] = row.pop("label_caption") or "a film"
            clips.update(rows)
        elif stage == "encode":
            by = latents_maker(self.config, self.project)
            clips.update(
                [{"clip_id": key, "latents": latents_of(key), "latents_shape": [64], "latents_by": by} for key in found.stale["latents"]]
            )
            by_text = text_maker(self.config, self.project)
            rows = clips.read(["clip_id", "caption_by"], tables.among("clip_id", found.stale["text_embeds"]))
            clips.update([{"clip_id": row["clip_id"], "text_embeds_by": by_text(row["caption_by"])} for row in rows])
        elif stage in TRAIN_STAGES:
            below = {"video-vae": "train_vae", "captioner": "train_captioner"} if stage == "train_dit" else {}
            stands_on = {kind: serving_weights(trained_by, self.config, self.project) for kind, trained_by in below.items()}
            if stage == "train_dit" and (base := base_model(self.config, self.project)) is not None:
                stands_on["text-to-video"] = base.weights
            reads_clips = stage != "train_captioner" or self.config.captioner.pretrained is None
            pin_reading(self.project, found, self.config.model_dump(mode="json"), stands_on, reads_clips)
            with new_folder(self.project.model(stage, found.key)) as draft:
                (draft / "weights.json").write_text(json.dumps(found.key))
                (draft / "vae.json").write_text(json.dumps(VAE_FACTS))
                (draft / "kinora.json").write_text(json.dumps(CAPTIONER_FACTS))
            note_weights(self.project, stage, found.key, digest_folder(self.project.model(stage, found.key)), None)
        elif stage == "evaluate":
            tables.samples(self.project)

    def record(self, stage: str, found: Freshness, **result: object) -> None:
        worked = planned_steps(self.config, stage, found.rows) if stage in TRAIN_STAGES else found.todo
        spent = {"worked": worked, "work_seconds": 10.0, "core_seconds": 15.0, "gpu_seconds": 0.0, "num_bytes": 1000}
        record = {"stage": stage, "maker": found.maker, "rows": found.rows, "rows_digest": found.rows_digest, "seconds": 10.0}
        record |= {
            "settings": stage_settings(stage, self.config),
            "result": result,
            "spent": spent,
            "finished_at": "2026-11-26T12:00:00+0000",
        }
        self.project.write_record(stage, record)
        remember(self.project, self.config, record)

    def stale(self) -> list[str]:
        return [stage for stage in STAGES if not self.assess(stage).fresh]

    def model(self, stage: str) -> Path:
        folder = model_folder(stage, self.project)
        assert folder is not None
        return folder
