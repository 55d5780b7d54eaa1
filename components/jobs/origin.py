"""The boxes of the report's picture: files, clips, the models and what they made of the clips, samples, verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.jobs.run import Run
from components.operations.freshness import serving_base, serving_weights, training_key
from components.operations.readings import TRAINED_BY
from components.report.data import Node
from components.store import readings, tables
from components.store.filters import KEPT, TRAINING

NAMES = {"captioner": "captioner", "video-vae": "video VAE", "text-to-video": "text-to-video"}
MADE_FROM: dict[str, tuple[int, tuple[str, ...]]] = {  # column and what each model reads
    "captioner": (2, ("clips",)),
    "video-vae": (2, ("clips",)),
    "text-to-video": (4, ("captions", "latents")),
}


def origin(run: Run, verdicts: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Answers the boxes from source files to the verdict, as far as the project has come."""
    clips, videos = tables.clips(run.project), tables.videos(run.project)
    rows = videos.read(["status", "licence"])
    licences = sorted({row["licence"] for row in rows if row["licence"] and row["status"] == "accepted"})
    accepted = sum(row["status"] == "accepted" for row in rows)
    taken = sum(row["status"] == "forgotten" for row in rows)
    nodes = [
        Node("files", 0, f"{accepted:,} files", [*_licence(licences), *([f"{taken} taken down"] if taken else [])]),
        Node("clips", 1, f"{clips.count():,} clips", [f"{clips.count(KEPT):,} kept", f"{clips.count(TRAINING):,} to train on"], ["files"]),
    ]
    nodes += [node for kind in NAMES if (node := _model(run, kind)) is not None]
    captioned = clips.read(["caption_by", "label_by"], f"{KEPT} AND caption IS NOT NULL")
    if captioned:
        lent = sum(row["caption_by"] == row["label_by"] for row in captioned)
        nodes.append(Node("captions", 3, "captions", [f"{len(captioned) - lent:,} written", f"{lent:,} lent"], ["captioner"]))
    if encoded := clips.count(f"{KEPT} AND latents_by IS NOT NULL"):
        nodes.append(Node("latents", 3, "latents", [f"{encoded:,} clips encoded"], ["video-vae"]))
    evaluated = (run.project.record("evaluate") or {}).get("result", {})
    if evaluated:
        nodes.append(Node("samples", 5, f"{evaluated['samples']:,} samples", ["generated, measured"], ["text-to-video"]))
    return nodes + [_verdict(entry) for entry in verdicts if entry["kind"] == "text-to-video"]


def _licence(licences: Sequence[str]) -> list[str]:
    if not licences:
        return ["no licence given"]
    return [licences[0] if len(licences) == 1 else f"{len(licences)} licences"]


def _model(run: Run, kind: str) -> Node | None:
    stage = TRAINED_BY[kind]
    if (base := serving_base(stage, run.config, run.project)) is not None:
        return Node(
            kind,
            MADE_FROM[kind][0],
            NAMES[kind],
            [f"of {base.reference}", f"weights {serving_weights(stage, run.config, run.project)[:8]}"],
        )
    record = run.project.record(stage)
    if record is None or not record["result"].get("weights"):
        return None
    column, reads = MADE_FROM[kind]
    lines = [f"weights {record['result']['weights'][:8]}"]
    head = readings.read_head(run.project, stage, training_key(record["maker"], record["rows_digest"]))
    if head is not None and (read := head["tables"].get("clips")):
        lines += [f"read {read['rows']:,} clips", f"of table version {read['version']}"]
    removed = bool(head and head["rows_removed"])
    return Node(kind, column, NAMES[kind], [*lines, *(["rows removed since"] if removed else [])], reads, "bad" if removed else "")


def _verdict(entry: Mapping[str, Any]) -> Node:
    promoted = entry["outcome"] in ("promote", "champion")
    return Node(
        "verdict",
        6,
        "champion" if promoted else "not promoted",
        [f"version {entry['version']}", f"{sum(check['holds'] for check in entry['checks'])} of {len(entry['checks'])} rules hold"],
        ["samples"],
        "good" if promoted else "bad",
    )
