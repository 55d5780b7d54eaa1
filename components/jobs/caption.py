"""Recaptioning on Ray: lent captions are taken as they are, the captioner says the rest."""

from typing import Any

from components.caption.captioner import choose
from components.caption.checks import check_captions
from components.caption.coca import CaptionClips
from components.jobs.actors import one_thread
from components.jobs.rows import Rows, fixed_batches, map_rows, with_videos
from components.jobs.run import Run
from components.operations.freshness import Freshness, caption_maker, serving_folder
from components.store import tables
from components.store.filters import KEPT

READS = ("label_caption", "label_by", "lent", "truth")
EXAMPLES = 12


class CaptionRows:
    """`CaptionClips` over rows, on one thread, for Ray's actors."""

    def __init__(self, settings: Any, folder: str) -> None:
        one_thread()
        self.stage = CaptionClips(settings, folder, settings.device)

    def __call__(self, rows: Rows) -> Rows:
        columns = self.stage({name: [row[name] for row in rows] for name in ("clip_id", "video", "label_caption", "lent")})
        said = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, "label_by": given["label_by"], "lent": given["lent"]} for row, given in zip(said, rows, strict=True)]


def caption(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Captions every kept clip whose caption is missing or was made by another captioner."""
    clips, settings = tables.clips(run.project), run.config.caption
    keys, stale = clips.keys(KEPT), set(freshness.stale["caption"])
    batches = fixed_batches(keys, stale, settings.batch_size)

    def write(rows: Rows) -> None:
        clips.update(
            [
                {
                    "clip_id": row["clip_id"],
                    "caption": row["caption"],
                    "caption_score": row["caption_score"],
                    "caption_by": caption_maker(run.config, run.project, row["label_by"] if row["lent"] else None),
                }
                for row in rows
                if row["clip_id"] in stale
            ]
        )

    map_rows(
        run,
        CaptionRows,
        (settings, str(serving_folder("train_captioner", run.config, run.project))),
        with_videos(clips, READS, batches),
        write,
        actors=settings,
        on_gpu=True,
        total=sum(map(len, batches)),
        note="clips captioned",
    )
    return _result(run, clips, len(stale))


def _result(run: Run, clips: tables.Table, done: int) -> dict[str, Any]:
    rows = clips.read(["clip_id", "caption", "caption_score", "lent", "label_caption"], KEPT)
    verdict = check_captions([row["caption"] for row in rows], run.config.caption, [row["label_caption"] for row in rows])
    written = sum(row["caption"] is not None and not row["lent"] for row in rows)
    without = sum(row["caption"] is None for row in rows)
    if without == len(rows):
        choice = choose(run.config.captioner, 0)
        raise ValueError(f"no clip has a caption ({choice.why}); hint: a manifest with captions, or `--set captioner.pretrained=NAME:TAG`")
    shown = rows[:: max(1, len(rows) // EXAMPLES)][:EXAMPLES]
    return {
        "summary": f"{written} captions written, {sum(bool(row['lent']) for row in rows)} lent"
        + (f", {without} clips without" if without else ""),
        "amount": f"{done} clips",
        "warnings": list(verdict.warnings),
        "show": {
            "tables": {
                "captions": [
                    {
                        "clip": r["clip_id"],
                        "caption": r["caption"],
                        "score": r["caption_score"],
                        "by": "label" if r["lent"] else "captioner",
                    }
                    for r in shown
                ]
            }
        },
    }
