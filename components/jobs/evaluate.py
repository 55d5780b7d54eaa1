"""The evaluation of the models that a run trained: samples of the candidate, reconstructions, captions, beside real clips."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from components.evaluate import fidelity, suite
from components.jobs import measuring
from components.jobs.evidence import captioner_evidence, write_evidence
from components.jobs.run import Run
from components.jobs.samples import write_samples
from components.operations.freshness import Freshness, model_folder, serving_folder, serving_weights, weights_of
from components.sections import Clip
from components.stages import digest
from components.store import tables
from components.store.choice import evenly
from components.store.project import write_json

KEPT_PAIRS = 8


def evaluate(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Measures the captioner, the VAE and the text-to-video model, and keeps the evidence that the gate judges.

    Raises:
        ValueError: nothing was held out, so nothing can be measured.
    """
    conditions = measuring.conditions_of(run)
    real, reader, vae, dit = (
        conditions.real,
        conditions.reader,
        serving_folder("train_vae", run.config, run.project),
        model_folder("train_dit", run.project),
    )
    if vae is None or dit is None:
        raise ValueError("there is no model to measure yet; hint: `kinora run` trains them first")
    reconstructed = measuring.reconstruct(run, conditions, vae)
    ceiling = fidelity.read_accuracy(reconstructed.frames, real.truths, reader) if reader else None
    pictures = fidelity.reconstruction(real.frames, reconstructed.frames, real.truths if reader else None, reader)
    of_vae = measuring.evidence_of_reconstructions(conditions, serving_weights("train_vae", run.config, run.project), reconstructed)
    found = measuring.sample(run, conditions, dit, lambda batch: _keep(run, conditions.clip, batch))
    evaluation = measuring.evaluation_of(run, conditions, found, ceiling)
    captioned, measured_by = measuring.captioned(run), conditions.measured_by
    for kind, evidence in {
        "text-to-video": measuring.evidence_of_samples(conditions, weights_of("train_dit", run.project), found, evaluation),
        "video-vae": of_vae,
        "captioner": captioner_evidence(serving_weights("train_captioner", run.config, run.project), measured_by, captioned),
    }.items():
        write_evidence(run.project, kind, evidence)
    write_json(
        run.project.folder / "evaluations" / "latest.json",
        {"evaluation": evaluation, "captions": _caption_accuracy(captioned), "reconstruction": pictures, "measured_by": measured_by},
    )
    np.savez_compressed(
        run.project.folder / "evaluations" / "reconstructions.npz",
        originals=np.stack(real.frames[:KEPT_PAIRS]),
        decoded=np.stack(reconstructed.frames[:KEPT_PAIRS]),
    )
    sheet = _sheets(run, real, reconstructed.frames, found)
    videos = write_samples(run, weights_of("train_dit", run.project))
    return {
        "summary": _said(evaluation, pictures, len(found)),
        "amount": f"{len(found)} samples",
        "model": weights_of("train_dit", run.project),
        "samples": len(found),
        "videos": [str(path) for path in videos],
        "show": {"images": sheet, "tables": {"following": _following_table(evaluation)}},
    }


def _keep(run: Run, clip: Clip, found: Iterable[dict[str, Any]]) -> None:
    model = weights_of("train_dit", run.project)
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


def _caption_accuracy(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy by field of the captions of held-out clips: of seen combinations, and of unseen ones."""
    return {
        name: fidelity.caption_accuracy([row["caption"] for row in part], [row["fields"] for row in part])
        for name, part in (("seen", [r for r in rows if not r["unseen"]]), ("unseen", [r for r in rows if r["unseen"]]))
    }


def _sheets(run: Run, real: measuring.RealClips, reconstructed: Sequence[np.ndarray], found: Sequence[dict[str, Any]]) -> dict[str, str]:
    from components.report.data import Reconstruction
    from components.report.sheets import reconstruction_sheet, sample_sheet

    pairs = [Reconstruction(a, b) for a, b in zip(real.frames[:6], reconstructed[:6], strict=True)]
    picked = [entry["frames"] for entry in evenly(found, 12)]
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
