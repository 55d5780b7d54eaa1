"""Curation: measures new clips on Ray, then finds duplicates, sets splits and applies the rules to all of them."""

import json
from collections import Counter
from typing import Any

from components.curate.duplicates import find_duplicates
from components.curate.funnel import funnel
from components.curate.rules import judge
from components.curate.splits import lends, split_videos
from components.jobs.rows import fixed_batches, map_rows, with_videos
from components.jobs.run import Run
from components.measure.clips import WRITES, MeasureClips
from components.operations.freshness import Freshness
from components.stages import digest
from components.store import tables

MEASURES = ("luma", "contrast", "sharpness", "motion", "repeat_share")
MEASURE_REVISION = 1
CLIPS_PER_BATCH = 64
SHEET_CLIPS = 12


def curate(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Measures what is not measured yet; whether a clip is kept and in which split depends on all clips, and is decided anew.

    A clip that a training put into quarantine stays there until other settings judge it: then it is tried again.
    """
    clips = tables.clips(run.project)
    _measure(run, clips)
    settings = run.config.curate
    run.progress(0, clips.count(), "clips decided upon")
    rows = clips.read(
        ["clip_id", "video_id", "crop", "truth", "label_by", "label_caption", "perceptual_hash", "quarantine", "curated_by", *MEASURES]
    )
    duplicates = find_duplicates(rows, settings.max_duplicate_difference)
    unseen = {row["video_id"] for row in rows if row["truth"] and json.loads(row["truth"])["unseen"]}
    split = split_videos(duplicates.groups, unseen, settings.val_share, settings.test_share)
    decided = [
        {
            "clip_id": row["clip_id"],
            "duplicate_of": duplicates.duplicate_of.get(row["clip_id"]),
            "split": split[row["video_id"]],
            "lent": _is_lent(row, settings.labelled_share),
            "quarantine": row["quarantine"] if row["curated_by"] == freshness.maker else None,
            "curated_by": freshness.maker,
            **judge({**row, "duplicate_of": duplicates.duplicate_of.get(row["clip_id"])}, settings),
        }
        for row in rows
    ]
    clips.update(decided)
    run.progress(len(decided), len(decided), "clips decided upon")
    kept = [row for row in decided if row["keep"]]
    if not kept:
        reasons = Counter(row["drop_reason"] for row in decided)
        raise ValueError(f"no clip is kept, most often because: {reasons.most_common(1)[0][0]}; hint: the thresholds are `curate.*`")
    splits = ", ".join(f"{count} {name}" for name, count in Counter(row["split"] for row in kept).most_common())
    steps = funnel(tables.videos(run.project).read(["status", "reason"]), clips.read(["keep", "drop_reason", "quarantine"]))
    return {
        "summary": f"{len(kept)} of {len(decided)} clips kept: {splits}",
        "amount": f"{len(decided)} clips",
        "kept": len(kept),
        "show": {
            "tables": {"funnel": [{"step": s.what, "kept": s.kept, "dropped": s.dropped, "why": _said(s.reasons)} for s in steps]},
            "images": {"clips": _sheet(run, clips, [row["clip_id"] for row in kept])},
        },
    }


def _measure(run: Run, clips: tables.Table) -> None:
    maker = digest({"measure": MEASURE_REVISION})
    keys, stale = clips.keys(), clips.keys(tables.distinct("measured_by", maker))
    batches = fixed_batches(keys, stale, CLIPS_PER_BATCH)
    if not batches:
        return
    fresh = set(keys) - set(stale)

    def write(rows: list[dict[str, Any]]) -> None:
        clips.update(
            [
                {"clip_id": r["clip_id"], **{name: r[name] for name in WRITES}, "measured_by": maker}
                for r in rows
                if r["clip_id"] not in fresh
            ]
        )

    map_rows(
        run,
        MeasureClips,
        (run.config,),
        with_videos(clips, ["fps"], batches),
        write,
        actors=run.config.caption,
        on_gpu=False,
        total=sum(map(len, batches)),
        note="clips measured",
    )


def _is_lent(row: dict[str, Any], labelled_share: float) -> bool:
    """A manifest's words are always lent; the truth of the synthetic world only for its labelled share."""
    if not row["label_caption"]:
        return False
    return not (row["label_by"] or "").startswith("sidecar:") or lends(row["video_id"], labelled_share)


def _sheet(run: Run, clips: tables.Table, keys: list[str]) -> str:
    from components.media.read import decode_clip
    from components.report.sheets import clip_sheet

    picked = sorted(keys)[:: max(1, len(keys) // SHEET_CLIPS)][:SHEET_CLIPS]
    return str(clip_sheet(run.project.sheet("clips.png"), [decode_clip(blob) for _, blob in clips.read_blobs("video", picked)]))


def _said(reasons: tuple[tuple[str, int], ...]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in reasons)
