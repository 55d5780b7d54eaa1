"""The figures of a run beside their bars; the bars are those of `make demo` and are only set against the synthetic world."""

import json
from collections.abc import Mapping
from typing import Any

from components.jobs.run import Run
from components.operations.freshness import serving_base
from components.report.data import Figure
from components.store import tables

GIB = 1 << 30
FIELDS = ("colour", "shape", "motion", "background", "camera")
BARS = {("unseen", "colour"): 0.9, ("unseen", "motion"): 0.8, ("unseen", "shape"): 0.4, ("seen", "shape"): 0.6}
CUT_TOLERANCE_FRAMES = 1


def figures(run: Run, latest: Mapping[str, Any]) -> list[Figure]:
    """Answers every figure that the project can show; time and memory are those of the last run that ran every stage."""
    bars = run.source is None and run.config.world.preset == "demo"
    found = []
    if whole := run.project.record("whole_run"):
        found.append(Figure("demo_minutes", "whole run", whole["seconds"] / 60, 15.0 if bars else None, "<=", "min"))
        peak = whole["peak_bytes"] / GIB
        found.append(Figure("peak_memory_gib", "peak memory, PSS of all processes", peak, 8.0 if bars else None, "<=", "GiB"))
    if run.source is None:
        found += _cuts(run)
        found += _captions(latest.get("captions") or {})
        found += _vae(run, latest)
    for group, following in ((latest.get("evaluation") or {}).get("groups") or {}).items():
        ceiling = latest["evaluation"]["ceiling"] or {}
        for field in (*FIELDS, "triple"):
            share = following["fields"].get(field)
            if share:
                found.append(
                    Figure(
                        f"{group}_{'direction' if field == 'motion' else field}",
                        f"{'direction' if field == 'motion' else field}, {group} combinations",
                        share["value"],
                        BARS.get((group, field)) if bars else None,
                        unit="%",
                        low=share["low"],
                        high=share["high"],
                        chance=following["chance"][field],
                        ceiling=ceiling[field]["value"] if field in ceiling else None,
                    )
                )
    return found


def _cuts(run: Run) -> list[Figure]:
    """Compares the scenes that were found with the cuts that each film's sidecar declares."""
    right = found_count = true_count = gradual_found = gradual_count = 0
    for row in tables.videos(run.project).read(["uri", "scenes"], "status = 'accepted'"):
        sidecar = (run.footage / row["uri"].rsplit("/", 1)[-1]).with_suffix(".json")
        if not sidecar.is_file():
            continue
        truth = json.loads(sidecar.read_text())
        starts = [scene["first_frame"] for scene in row["scenes"][1:]]
        gradual = [(entry["first"], entry["last"]) for entry in truth["gradual"]]
        in_gradual = [start for start in starts if any(first - 1 <= start <= last + 2 for first, last in gradual)]
        hard = [start for start in starts if start not in in_gradual]
        matched = sum(any(abs(cut - start) <= CUT_TOLERANCE_FRAMES for start in hard) for cut in truth["cuts"])
        right, found_count, true_count = right + matched, found_count + len(hard), true_count + len(truth["cuts"])
        gradual_count += len(gradual)
        gradual_found += sum(any(first - 1 <= start <= last + 2 for start in starts) for first, last in gradual)
    f1 = 2 * right / (found_count + true_count) if found_count + true_count else None
    return [
        Figure("hard_cuts_f1", "hard cuts found, F1 at +-1 frame", f1, 0.98, unit="%"),
        Figure("gradual_recall", "gradual transitions found, recall", gradual_found / gradual_count if gradual_count else None, unit="%"),
    ]


def _captions(captions: Mapping[str, Any]) -> list[Figure]:
    found = []
    for group, bar_field, bar_all in (("seen", 0.9, 0.75), ("unseen", None, None)):
        where = "unseen clips" if group == "seen" else "unseen combinations"
        for field, share in (captions.get(group) or {}).items():
            bar = bar_all if field == "all" else bar_field
            found.append(
                Figure(
                    f"captions_{group}_{field}",
                    f"captions of {where}, {field}",
                    share["value"],
                    bar,
                    unit="%",
                    low=share["low"],
                    high=share["high"],
                )
            )
    return found


def _vae(run: Run, latest: Mapping[str, Any]) -> list[Figure]:
    pictures = latest.get("reconstruction")
    if not pictures:
        return []
    served = serving_base("train_vae", run.config, run.project) is not None  # by a VAE that was not trained here
    record = {"result": {}} if served else run.project.record("train_vae") or {"result": {}}
    gain = record["result"].get("last", {}).get("val_psnr_gain")
    found = [Figure("vae_psnr", "VAE on unseen clips, PSNR", pictures["psnr"], 29.5, unit="dB")]
    found.append(Figure("vae_above_pca", "VAE above the PCA of its shape", gain, 2.5, unit="dB"))
    for field, share in (pictures.get("fields") or {}).items():
        if field != "all":
            found.append(
                Figure(
                    f"vae_reader_{field}",
                    f"reader on reconstructions, {field}",
                    share["value"],
                    0.97,
                    unit="%",
                    low=share["low"],
                    high=share["high"],
                )
            )
    return found
