"""Turns what was measured into the evidence that the gate judges: plain JSON, one entry a sample or clip."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate import fidelity, suite
from components.measure import distortion
from components.store.project import Project, write_json

JUDGED = ("colour", "shape", "motion", "camera")


def text_to_video_evidence(
    model: str, measured_by: str, rows: Sequence[suite.Row], evaluation: suite.Evaluation, alike: np.ndarray | None = None
) -> dict[str, Any]:
    """Answers the gate's TextToVideoEvidence.

    Args:
        alike: for footage without fields, (samples, 2) of `evaluate.likeness`; it is the following of the group `held-out`.
    """
    following: dict[str, Any] = {}
    if alike is not None:
        following["held-out"] = {
            "prompts": [row["text"] for row in rows],
            "correct": {"caption": [float(value) for value in alike[:, 0]]},
            "shuffled": {"caption": [float(value) for value in alike[:, 1]]},
            "chance": {"caption": 0.5},
            "ceiling": {"caption": None},
        }
    for group, found in (evaluation["groups"] or {}).items():
        inside = [row for row in rows if row["group"] == group and row["right"] is not None]
        fields = [field for field in JUDGED if field in found["fields"]]
        following[group] = {
            "prompts": [row["text"] for row in inside],
            "correct": {field: [float((row["right"] or {})[field]) for row in inside] for field in fields},
            "shuffled": {field: [float(value) for value in suite.fits_of_others(inside, field)] for field in fields},
            "chance": {field: found["chance"][field] for field in fields},
            "ceiling": {field: evaluation["ceiling"][field]["value"] if evaluation["ceiling"] else None for field in fields},
        }
    asked_to_move = [row for row in rows if (row["truth"] or {}).get("motion") != "still"]
    scores = [row["temporal"]["score"] for row in asked_to_move]
    real = evaluation["real"]
    return {
        "model": model,
        "measured_by": measured_by,
        "following": following,
        "temporal": {
            "prompts": [row["text"] for row in asked_to_move],
            "moving": [float(score is not None) for score in scores],
            "repeated": [float(row["temporal"]["repeat_share"] or 0.0) for row in asked_to_move],
            "consistency": scores,
            "ranked": {name: found["share"] for name, found in evaluation["ranking"].items()},
            "real": real["score"]["value"] if real and real["score"] else None,
        },
    }


def vae_evidence(
    model: str,
    measured_by: str,
    rows: Sequence[Mapping[str, Any]],
    originals: Sequence[np.ndarray],
    reconstructed: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, str] | None],
    reader: Callable[[np.ndarray], Mapping[str, str | None]] | None,
) -> dict[str, Any]:
    """Answers the gate's VaeEvidence of held-out clips; without a reader no field is judged."""
    judged = [i for i, truth in enumerate(truths) if truth] if reader else []
    kept = judged or list(range(len(rows)))  # one entry a clip in every list, so clips of no truth are left out beside others
    correct: dict[str, list[float]] = {}
    for i in judged:
        truth = truths[i]
        if reader and truth:
            for field, right in fidelity.fields_right(dict(reader(reconstructed[i])), dict(truth)).items():
                if field != "all":
                    correct.setdefault(field, []).append(float(right))
    return {
        "model": model,
        "measured_by": measured_by,
        "clips": [rows[i]["clip_id"] for i in kept],
        "psnr": [distortion.psnr(originals[i], reconstructed[i]) for i in kept],
        "ssim": [distortion.ssim(originals[i], reconstructed[i]) for i in kept],
        "first_frame_bias": [distortion.first_frame_bias(originals[i], reconstructed[i]) for i in kept],
        "correct": correct,
    }


def captioner_evidence(model: str, measured_by: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Answers the gate's CaptionerEvidence.

    Args:
        rows: held-out clips that the captioner described: clip_id, caption and the fields of the truth.
    """
    correct: dict[str, list[float]] = {}
    for row in rows:
        for field, right in fidelity.fields_right(fidelity.parse(row["caption"] or ""), row["fields"]).items():
            if field != "all":
                correct.setdefault(field, []).append(float(right))
    return {"model": model, "measured_by": measured_by, "clips": [row["clip_id"] for row in rows], "correct": correct}


def evidence_file(project: Project, kind: str, weights: str) -> Path:
    """Answers where it is kept what was measured of a model."""
    return project.folder / "evaluations" / kind / f"{weights[:16]}.json"


def write_evidence(project: Project, kind: str, evidence: Mapping[str, Any]) -> None:
    """Keeps what was measured of a model."""
    write_json(evidence_file(project, kind, evidence["model"]), evidence)


def read_evidence(project: Project, kind: str, weights: str) -> dict[str, Any] | None:
    """Answers what was measured of a model last, or None."""
    path = evidence_file(project, kind, weights)
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found
