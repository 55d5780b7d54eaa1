"""Measures models under one set of conditions: prompts, held-out clips and settings, which two models must share to be compared."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components.cluster.rows import map_batches
from components.evaluate import suite
from components.evaluate.degradations import MUST_RANK
from components.evaluate.fidelity import Reader
from components.evaluate.intervals import Share
from components.evaluate.likeness import likeness
from components.jobs.actors import ReconstructActor, Reconstructed, SampleActor
from components.jobs.caption import READS as CAPTION_READS
from components.jobs.caption import CaptionRows
from components.jobs.evidence import captioner_evidence, text_to_video_evidence, vae_evidence
from components.jobs.rows import announced, with_videos
from components.jobs.run import Run
from components.media.read import decode_clip
from components.sections import Clip
from components.stages import STAGES, digest
from components.store import tables
from components.store.choice import evenly
from components.store.filters import HELD_OUT, TRAINING
from components.world.reader import read
from components.world.render import render_clips

CLIPS_PER_BATCH = 16
CHECKED_CLIPS, DRAWN_CLIPS = 2, 2  # held out, and of the renderer
CAPTIONS_PER_BATCH = 64
Found = list[dict[str, Any]]  # of each sample: its measured row, the rewritten prompt, frames and the encoded video


@dataclass(frozen=True)
class RealClips:
    """Held-out clips: uint8 (T, H, W, 3) each, with their rows."""

    rows: list[dict[str, Any]]
    frames: list[np.ndarray]

    @property
    def truths(self) -> list[dict[str, str] | None]:
        return [json.loads(row["truth"])["fields"] if row["truth"] else None for row in self.rows]

    @property
    def moving(self) -> list[np.ndarray]:
        """Those long enough to have a motion."""
        return [frames for frames in self.frames if len(frames) > 2]


@dataclass(frozen=True)
class Conditions:
    """What models are measured by; those with the same `measured_by` can be compared.

    Attributes:
        clip: what the real clips are and samples will be, as settings.
        preset: of the synthetic world, whose reader then judges; None for other footage.
        sharp_at: the sharpness that counts in full.
        generate: the settings of sampling.
    """

    clip: Clip
    preset: str | None
    real: RealClips
    prompts: list[suite.Prompt]
    sharp_at: float
    generate: dict[str, Any]
    measured_by: str

    @property
    def reader(self) -> Reader | None:
        return partial(read, preset=self.preset) if self.preset else None


def conditions_of(run: Run) -> Conditions:
    """Takes the conditions from a project's settings and held-out clips.

    Raises:
        ValueError: nothing was held out, so nothing can be measured.
    """
    settings, generate = run.config.evaluate, run.config.generate.model_dump(mode="json")
    preset = run.config.world.preset if run.source is None else None
    clip = _clip(run)
    real = _real_clips(run, clip)
    sharp_at = suite.sharp_reference(real.moving)
    if preset:
        prompts = suite.make_prompts(preset, settings.num_seen_prompts, settings.num_unseen_prompts, settings.seed)
    else:
        prompts = suite.caption_prompts([row["caption"] or "" for row in real.rows], settings.num_seen_prompts, settings.seed)
    measured_by = digest(
        {
            "settings": settings.model_dump(mode="json"),
            "generate": generate,
            "revision": STAGES["evaluate"].revision,
            "prompts": [(prompt.text, prompt.seed) for prompt in prompts],
            "sharp_at": round(sharp_at, 6),
            "clips": [row["clip_id"] for row in real.rows],
        }
    )
    return Conditions(clip, preset, real, prompts, sharp_at, generate, measured_by)


def _clip(run: Run) -> Clip:
    """Answers the settings of clips; where they have several shapes, with that of most held-out clips which a training saw too."""
    clip, columns = run.config.clip, ("num_frames", "height", "width")
    if clip.max_shapes == 1:
        return clip
    learned, held_out = (
        [(row["num_frames"], row["height"], row["width"]) for row in tables.clips(run.project).read(columns, where)]
        for where in (TRAINING, HELD_OUT)
    )
    return clip.as_most(filter(set(learned).__contains__, held_out))


def _real_clips(run: Run, clip: Clip) -> RealClips:
    """Takes held-out clips of seen combinations, evenly from all; every one is as long and large as a sample."""
    where = f"{HELD_OUT} AND height = {clip.height} AND width = {clip.width} AND num_frames = {clip.num_frames}"
    table = tables.clips(run.project)
    rows = table.read(["clip_id", "video_id", "truth", "caption", "caption_by", "label_by"], where)
    rows = [row for row in rows if not (row["truth"] and json.loads(row["truth"])["unseen"])] or rows
    if not rows:
        raise ValueError(
            f"no held-out clip of {clip.num_frames} frames is left to measure against; hint: more footage, or `--set curate.val_share=0.2`"
        )
    picked = evenly(rows, run.config.evaluate.num_real_clips)
    blobs = table.read_blobs("video", [row["clip_id"] for row in picked])
    return RealClips(picked, [decode_clip(blob) for _, blob in blobs])


def sample(run: Run, conditions: Conditions, folder: Path, on_batch: Callable[[Found], None] = lambda found: None) -> Found:
    """Generates and measures all prompts on Ray with the text-to-video model of a folder, and answers them in order.

    Args:
        on_batch: told of each batch as it comes, in any order.
    """
    prompts, size, encode = conditions.prompts, run.config.evaluate.batch_size, run.config.encode
    batches = [list(prompts[at : at + size]) for at in range(0, len(prompts), size)]
    answers = map_batches(
        SampleActor,
        (run.config.model_copy(update={"clip": conditions.clip}), str(folder), conditions.preset, conditions.sharp_at),
        announced(batches, lambda: run.progress(0, len(prompts), "samples generated and measured")),
        num_actors=min(encode.num_actors, len(batches)),
        cpus_per_actor=encode.cpus_per_actor,
        gpus_per_actor=encode.gpus_per_actor,
        project=run.project,
    )
    done: dict[int, Found] = {}
    for at, found in answers:
        done[at] = found
        on_batch(found)
        run.progress(sum(map(len, done.values())), len(prompts), "samples generated and measured")
    return [entry for at in sorted(done) for entry in done[at]]


def evaluation_of(run: Run, conditions: Conditions, found: Found, ceiling: dict[str, Share] | None) -> suite.Evaluation:
    """Adds samples up, beside what the same measures say of real clips."""
    settings, moving = run.config.evaluate, conditions.real.moving
    fps, floor, sharp_at = Fraction(run.config.clip.fps), settings.min_motion, conditions.sharp_at
    rank = partial(suite.rank_degradations, fps=fps, min_motion=floor, sharp_at=sharp_at, count=settings.num_ranked_clips, names=MUST_RANK)
    parts, note = 4, "parts of the evaluation added up"
    run.progress(0, parts, note)
    real = suite.score_clips(moving, fps=fps, min_motion=floor, sharp_at=sharp_at)
    run.progress(1, parts, note)
    ranking = rank([entry["frames"] for entry in found])
    run.progress(2, parts, note)
    real_ranking = rank(moving)
    run.progress(3, parts, note)
    evaluation = suite.aggregate(
        [entry["row"] for entry in found],
        real=real,
        ceiling=ceiling,
        sharp_at=sharp_at,
        ranking=ranking,
        real_ranking=real_ranking,
        bootstrap_samples=settings.bootstrap_samples,
        seed=settings.seed,
    )
    run.progress(parts, parts, note)
    return evaluation


def evidence_of_samples(conditions: Conditions, weights: str, found: Found, evaluation: suite.Evaluation) -> dict[str, Any]:
    """Answers the gate's evidence of a text-to-video model, and beside it the settings of sampling and, as `measured`, the report's."""
    alike = None if conditions.preset else _likeness(conditions.real, found)
    rows = [entry["row"] for entry in found]
    evidence = text_to_video_evidence(weights, conditions.measured_by, rows, evaluation, alike)
    return {**evidence, "generate": conditions.generate, "measured": {"rows": rows, "evaluation": evaluation}}


@dataclass(frozen=True)
class Reconstructions:
    """What a VAE makes of the held-out clips.

    Attributes:
        frames: uint8 (T, H, W, 3) of each.
        latents_mean, latents_std: of the latents' channels over all of them, (C,).
        checked: what `vae_checks.Checked` holds, of some of them and of clips that the renderer drew.
    """

    frames: list[np.ndarray]
    latents_mean: np.ndarray
    latents_std: np.ndarray
    checked: Mapping[str, list[float]]


def reconstruct(run: Run, conditions: Conditions, folder: Path) -> Reconstructions:
    """Passes the held-out clips through the VAE of a folder and back, on Ray."""
    frames, encode, clip = conditions.real.frames, run.config.encode, conditions.clip
    drawn, _ = render_clips("demo", DRAWN_CLIPS, num_frames=clip.num_frames, height=clip.height, width=clip.width, fps=clip.fps)
    to_check = [*evenly(frames, CHECKED_CLIPS), *drawn]
    batches = [(np.stack(frames[at : at + CLIPS_PER_BATCH]), to_check if at == 0 else []) for at in range(0, len(frames), CLIPS_PER_BATCH)]
    answers = map_batches(
        ReconstructActor,
        (str(folder), encode.device),
        announced(batches, lambda: run.progress(0, len(frames), "held-out clips reconstructed")),
        num_actors=min(encode.num_actors, len(batches)),
        cpus_per_actor=encode.cpus_per_actor,
        gpus_per_actor=encode.gpus_per_actor,
        project=run.project,
    )
    done: dict[int, Reconstructed] = {}
    for at, part in answers:
        done[at] = part
        run.progress(sum(len(part.frames) for part in done.values()), len(frames), "held-out clips reconstructed")
    mean, square = np.sum([part.moments for part in done.values()], axis=0) / sum(part.places for part in done.values())
    return Reconstructions(
        [clip for at in sorted(done) for clip in done[at].frames],
        mean,
        np.sqrt(np.maximum(square - np.square(mean), 0.0)),
        done[0].checked,
    )


def evidence_of_reconstructions(conditions: Conditions, weights: str, reconstructed: Reconstructions) -> dict[str, Any]:
    """Answers the gate's evidence of a VAE."""
    real = conditions.real
    evidence = vae_evidence(weights, conditions.measured_by, real.rows, real.frames, reconstructed.frames, real.truths, conditions.reader)
    latents = {"mean": reconstructed.latents_mean.tolist(), "std": reconstructed.latents_std.tolist()}
    return {**evidence, "checked": dict(reconstructed.checked), "latents": latents}


def captioned(run: Run) -> list[dict[str, Any]]:
    """Answers held-out clips of known truth whose caption the captioner wrote: clip_id, caption, fields and unseen."""
    rows = tables.clips(run.project).read(["clip_id", "caption", "caption_by", "label_by", "truth"], f"{HELD_OUT} AND truth IS NOT NULL")
    written = [row for row in rows if row["caption_by"] != row["label_by"]]
    return [
        {"clip_id": row["clip_id"], "caption": row["caption"], **{key: json.loads(row["truth"])[key] for key in ("fields", "unseen")}}
        for row in written
    ]


def measure_model(run: Run, conditions: Conditions, kind: str, folder: Path, weights: str) -> dict[str, Any]:
    """Measures a model that is not the one of this run, a champion say, by the same conditions, and answers the gate's evidence."""
    match kind:
        case "text-to-video":
            found = sample(run, conditions, folder)
            return evidence_of_samples(conditions, weights, found, evaluation_of(run, conditions, found, None))
        case "video-vae":
            return evidence_of_reconstructions(conditions, weights, reconstruct(run, conditions, folder))
        case "captioner":
            return captioner_evidence(weights, conditions.measured_by, _captioned_by(run, folder))
    raise ValueError(f"`{kind}` is not a kind of model that is measured")


def _captioned_by(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The same clips as `captioned`, described by the captioner of a folder."""
    rows, settings = {row["clip_id"]: row for row in captioned(run)}, run.config.caption
    keys = sorted(rows)
    batches = [keys[at : at + CAPTIONS_PER_BATCH] for at in range(0, len(keys), CAPTIONS_PER_BATCH)]
    given = ([{**row, "lent": False} for row in batch] for batch in with_videos(tables.clips(run.project), CAPTION_READS, batches))
    answers = map_batches(
        CaptionRows,
        (settings, str(folder)),
        given,
        num_actors=min(settings.num_actors, len(batches)),
        cpus_per_actor=settings.cpus_per_actor,
        gpus_per_actor=settings.gpus_per_actor,
        project=run.project,
    )
    said: Mapping[str, str | None] = {row["clip_id"]: row["caption"] for _, batch in answers for row in batch}
    return [{**row, "caption": said[key]} for key, row in rows.items()]


def _likeness(real: RealClips, found: Found) -> np.ndarray | None:
    """How far each sample looks like the clips of its own caption, and like others; None where there is one caption only."""
    captions = [row["caption"] or "" for row in real.rows]
    if len(set(captions)) < 2:
        return None
    return likeness([entry["frames"] for entry in found], [entry["row"]["text"] for entry in found], real.frames, captions)
