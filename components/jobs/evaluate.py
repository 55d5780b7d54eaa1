"""The evaluation of the models that a run trained: samples of the candidate, reconstructions, captions, beside real clips."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from components.cluster.rows import map_batches
from components.evaluate import fidelity, suite
from components.evaluate.degradations import MUST_RANK
from components.evaluate.likeness import likeness
from components.jobs.actors import ReconstructActor, SampleActor
from components.jobs.evidence import captioner_evidence, text_to_video_evidence, vae_evidence
from components.jobs.run import Run
from components.media.read import decode_clip
from components.operations.freshness import Freshness, model_folder, weights_of
from components.stages import STAGES, digest
from components.store import tables
from components.store.filters import HELD_OUT
from components.store.project import write_json
from components.world.reader import read

CLIPS_PER_BATCH = 16
KEPT_PAIRS = 8


@dataclass(frozen=True)
class RealClips:
    """Held-out clips: uint8 (T, H, W, 3) each, with their rows."""

    rows: list[dict[str, Any]]
    frames: list[np.ndarray]

    @property
    def truths(self) -> list[dict[str, str] | None]:
        return [json.loads(row["truth"])["fields"] if row["truth"] else None for row in self.rows]


def evaluate(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Measures the captioner, the VAE and the text-to-video model, and keeps the evidence that the gate judges.

    Raises:
        ValueError: nothing was held out, so nothing can be measured.
    """
    settings = run.config.evaluate
    preset = run.config.world.preset if run.source is None else None
    reader = partial(read, preset=preset) if preset else None
    real = _real_clips(run)
    reconstructed = _reconstructions(run, real)
    ceiling = fidelity.read_accuracy(reconstructed, real.truths, reader) if reader else None
    moving = [frames for frames in real.frames if len(frames) > 2]
    sharp_at = suite.sharp_reference(moving)
    prompts = _prompts(run, preset, real)
    found = _samples(run, prompts, preset, sharp_at)
    rows = [entry["row"] for entry in found]
    fps, floor = Fraction(run.config.clip.fps), settings.min_motion
    rank = partial(suite.rank_degradations, fps=fps, min_motion=floor, sharp_at=sharp_at, count=settings.num_ranked_clips, names=MUST_RANK)
    evaluation = suite.aggregate(
        rows,
        real=suite.score_clips(moving, fps=fps, min_motion=floor, sharp_at=sharp_at),
        ceiling=ceiling,
        sharp_at=sharp_at,
        ranking=rank([entry["frames"] for entry in found]),
        real_ranking=rank(moving),
        bootstrap_samples=settings.bootstrap_samples,
        seed=settings.seed,
    )
    captions = _caption_accuracy(run)
    measured_by = digest(
        {
            "settings": settings.model_dump(mode="json"),
            "generate": run.config.generate.model_dump(mode="json"),
            "revision": STAGES["evaluate"].revision,
            "prompts": [(prompt.text, prompt.seed) for prompt in prompts],
            "sharp_at": round(sharp_at, 6),
            "clips": [row["clip_id"] for row in real.rows],
        }
    )
    pictures = fidelity.reconstruction(real.frames, reconstructed, real.truths if reader else None, reader)
    evidence = {
        "text-to-video": text_to_video_evidence(
            weights_of("train_dit", run.project), measured_by, rows, evaluation, None if preset else _likeness(real, found)
        ),
        "video-vae": vae_evidence(
            weights_of("train_vae", run.project), measured_by, real.rows, real.frames, reconstructed, real.truths, reader
        ),
        "captioner": captioner_evidence(weights_of("train_captioner", run.project), measured_by, _captioned(run)),
    }
    for kind, entry in evidence.items():
        write_json(run.project.folder / "evaluations" / kind / f"{entry['model'][:16]}.json", entry)
    write_json(
        run.project.folder / "evaluations" / "latest.json",
        {"evaluation": evaluation, "captions": captions, "reconstruction": pictures, "measured_by": measured_by},
    )
    np.savez_compressed(
        run.project.folder / "evaluations" / "reconstructions.npz",
        originals=np.stack(real.frames[:KEPT_PAIRS]),
        decoded=np.stack(reconstructed[:KEPT_PAIRS]),
    )
    sheet = _sheets(run, real, reconstructed, found)
    return {
        "summary": _said(evaluation, pictures, len(rows)),
        "model": weights_of("train_dit", run.project),
        "samples": len(rows),
        "show": {"images": sheet, "tables": {"following": _following_table(evaluation)}},
    }


def _real_clips(run: Run) -> RealClips:
    """Takes held-out clips of seen combinations, evenly from all; every one is as long and large as a sample."""
    clip = run.config.clip
    where = f"{HELD_OUT} AND height = {clip.height} AND width = {clip.width} AND num_frames = {clip.num_frames}"
    table = tables.clips(run.project)
    rows = table.read(["clip_id", "video_id", "truth", "caption", "caption_by", "label_by"], where)
    rows = [row for row in rows if not (row["truth"] and json.loads(row["truth"])["unseen"])] or rows
    if not rows:
        raise ValueError(
            f"no held-out clip of {clip.num_frames} frames is left to measure against; hint: more footage, or `--set curate.val_share=0.2`"
        )
    picked = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), run.config.evaluate.num_real_clips)).astype(int))]
    blobs = table.read_blobs("video", [row["clip_id"] for row in picked])
    return RealClips(picked, [decode_clip(blob) for _, blob in blobs])


def _reconstructions(run: Run, real: RealClips) -> list[np.ndarray]:
    batches = [np.stack(real.frames[at : at + CLIPS_PER_BATCH]) for at in range(0, len(real.frames), CLIPS_PER_BATCH)]
    folder = str(model_folder("train_vae", run.project))
    encode = run.config.encode
    done = dict(
        map_batches(
            ReconstructActor, (folder,), batches, num_actors=min(encode.num_actors, len(batches)), cpus_per_actor=encode.cpus_per_actor
        )
    )
    return [clip for at in sorted(done) for clip in done[at]]


def _prompts(run: Run, preset: str | None, real: RealClips) -> list[suite.Prompt]:
    settings = run.config.evaluate
    if preset:
        return suite.make_prompts(preset, settings.num_seen_prompts, settings.num_unseen_prompts, settings.seed)
    return suite.caption_prompts([row["caption"] or "" for row in real.rows], settings.num_seen_prompts, settings.seed)


def _samples(run: Run, prompts: Sequence[suite.Prompt], preset: str | None, sharp_at: float) -> list[dict[str, Any]]:
    """Generates and measures all prompts on Ray, keeps the videos in the samples table, and answers them in order."""
    settings, encode = run.config.evaluate, run.config.encode
    folder = str(model_folder("train_dit", run.project))
    batches = [list(prompts[at : at + settings.batch_size]) for at in range(0, len(prompts), settings.batch_size)]
    arguments = (run.config, folder, preset, sharp_at)
    actors = min(encode.num_actors, len(batches))
    done: dict[int, list[dict[str, Any]]] = {}
    for at, found in map_batches(SampleActor, arguments, batches, num_actors=actors, cpus_per_actor=encode.cpus_per_actor):
        done[at] = found
        _keep(run, found)
        run.progress(sum(map(len, done.values())), len(prompts), "samples generated and measured")
    return [entry for at in sorted(done) for entry in done[at]]


def _keep(run: Run, found: Iterable[dict[str, Any]]) -> None:
    model, clip = weights_of("train_dit", run.project), run.config.clip
    made_by = digest({"model": model, "generate": run.config.generate.model_dump(mode="json")})
    rows = []
    for entry in found:
        row = entry["row"]
        rows.append(
            {
                "sample_id": digest([made_by, row["text"], row["seed"]])[:32],
                "prompt": row["text"],
                "rewritten": entry["rewritten"],
                "group": row["group"],
                "truth": json.dumps(row["truth"]) if row["truth"] else None,
                "seed": row["seed"],
                "model": model,
                "num_frames": clip.num_frames,
                "fps": str(clip.fps),
                "height": clip.height,
                "width": clip.width,
                "video": entry["video"],
                "scores": json.dumps({"read": row["read"], "right": row["right"], "temporal": row["temporal"]}),
                "sampled_by": made_by,
            }
        )
    tables.samples(run.project).append(rows)


def _captioned(run: Run) -> list[dict[str, Any]]:
    """Held-out clips of known truth whose caption the captioner wrote."""
    rows = tables.clips(run.project).read(["clip_id", "caption", "caption_by", "label_by", "truth"], f"{HELD_OUT} AND truth IS NOT NULL")
    written = [row for row in rows if row["caption_by"] != row["label_by"]]
    return [
        {"clip_id": row["clip_id"], "caption": row["caption"], **{key: json.loads(row["truth"])[key] for key in ("fields", "unseen")}}
        for row in written
    ]


def _likeness(real: RealClips, found: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """How far each sample looks like the clips of its own caption, and like others; None where there is one caption only."""
    captions = [row["caption"] or "" for row in real.rows]
    if len(set(captions)) < 2:
        return None
    return likeness([entry["frames"] for entry in found], [entry["row"]["text"] for entry in found], real.frames, captions)


def _caption_accuracy(run: Run) -> dict[str, Any]:
    """Accuracy by field of the captions of held-out clips: of seen combinations, and of unseen ones."""
    rows = _captioned(run)
    return {
        name: fidelity.caption_accuracy([row["caption"] for row in part], [row["fields"] for row in part])
        for name, part in (("seen", [r for r in rows if not r["unseen"]]), ("unseen", [r for r in rows if r["unseen"]]))
    }


def _sheets(run: Run, real: RealClips, reconstructed: Sequence[np.ndarray], found: Sequence[dict[str, Any]]) -> dict[str, str]:
    from components.report.data import Reconstruction
    from components.report.sheets import reconstruction_sheet, sample_sheet

    pairs = [Reconstruction(a, b) for a, b in zip(real.frames[:6], reconstructed[:6], strict=True)]
    picked = [found[i]["frames"] for i in np.unique(np.linspace(0, len(found) - 1, 12).astype(int))]
    return {
        "reconstructions": str(reconstruction_sheet(run.project.sheet("reconstructions.png"), pairs)),
        "samples": str(sample_sheet(run.project.sheet("samples.png"), picked)),
    }


def _following_table(evaluation: suite.Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "prompts": group,
            "field": field,
            "right": round(share["value"], 3),
            "low": round(share["low"], 3),
            "high": round(share["high"], 3),
        }
        for group, found in (evaluation["groups"] or {}).items()
        for field, share in found["fields"].items()
    ]


def _said(evaluation: suite.Evaluation, pictures: fidelity.Reconstruction, samples: int) -> str:
    following, score = evaluation["following"], evaluation["temporal"]["score"]
    parts = [f"{samples} samples", f"VAE {pictures['psnr']:.1f} dB"]
    parts += [f"following {following['value']:.2f}"] if following else []
    parts += [f"temporal {score['value']:.2f}"] if score else ["none moves"]
    return ", ".join(parts)
