"""What a run leaves to look at: report.html, summary.json, a few sample videos, and the lines at its end in the terminal."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from components.curate.funnel import funnel
from components.jobs.figures import figures
from components.jobs.origin import origin
from components.jobs.run import Outcome, Run
from components.jobs.samples import pick_samples
from components.measure import distortion
from components.media.read import decode_clip
from components.operations.freshness import model_folder
from components.operations.held import shared
from components.report import build, data, summary
from components.stages import STAGES, TRAIN_STAGES
from components.store import mirror, tables
from components.store.choice import evenly
from components.store.filters import KEPT, TRAINING
from components.store.turns import working
from components.train.context import read_metrics
from components.world.vocabulary import parse

NUM_CLIPS, NUM_PAIRS = 8, 4


def finish(run: Run, outcomes: Sequence[Outcome], spent: Callable[[], tuple[float, int]]) -> data.ReportData:
    """Writes report, summary and sample files of a project, and answers what they were made of.

    Args:
        spent: answers the seconds and the peak memory in bytes of this run so far; a run of all stages is remembered by them.

    Raises:
        StageBusyError: another machine takes the footage down that the report would show.
    """
    seconds, peak_bytes = spent()
    if {outcome.stage for outcome in outcomes if outcome.action == "run"} == set(STAGES):
        run.project.write_record("whole_run", {"seconds": seconds, "peak_bytes": peak_bytes})
    return _write(run, outcomes, seconds)


def rewrite_report(run: Run) -> None:
    """Writes the report and the summary again from what the project still holds."""
    _write(run, [], (run.project.record("whole_run") or {}).get("seconds", 0.0))


def _write(run: Run, outcomes: Sequence[Outcome], seconds: float) -> data.ReportData:
    with working(run.project), shared(run.project, "report"):
        report = collect(run, outcomes, seconds)
        build.build(report, run.project.folder)
        summary.write_summary(run.project.folder, report.figures, report.stages)
        mirror.push(run.project)
    return report


def collect(run: Run, outcomes: Sequence[Outcome], total_seconds: float) -> data.ReportData:
    """Gathers what the tables, records and evaluations of a project say."""
    folder = run.project.folder
    latest = _json(folder / "evaluations" / "latest.json")
    verdicts = _json(folder / "evaluations" / "verdicts.json")
    clips = tables.clips(run.project)
    return data.ReportData(
        project=run.project.name,
        subtitle=str(run.source) if run.source else f"the synthetic world, preset {run.config.world.preset}",
        made_at=time.strftime("%Y-%m-%d %H:%M"),
        verdicts=[_verdict(entry) for entry in verdicts.get("verdicts", [])],
        figures=figures(run, latest),
        stages=_stages(run, outcomes),
        funnel=_funnel(run),
        clips=_clip_examples(run, clips),
        reconstructions=_reconstructions(run),
        curves=[curve for stage in TRAIN_STAGES for curve in _curves(run, stage)],
        samples=_samples(run),
        evaluation=latest.get("evaluation"),
        champion_evaluation=verdicts.get("champion_evaluation"),
        comparison=verdicts.get("comparison"),
        captions=(latest.get("captions") or {}).get("seen"),
        lineage=_lineage(run),
        origin=origin(run, verdicts.get("verdicts", [])),
        settings=run.config.model_dump(mode="json"),
        paths=_paths(run),
        next_commands=_next_commands(run),
        total_seconds=total_seconds,
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _verdict(entry: Mapping[str, Any]) -> data.Verdict:
    checks = [data.Check(check["name"], check["holds"], check["sentence"]) for check in entry["checks"]]
    return data.Verdict(entry["model"], entry["outcome"], entry["reasons"], checks, str(entry["version"]) if entry.get("version") else None)


def _stages(run: Run, outcomes: Sequence[Outcome]) -> list[data.StageRow]:
    """What this run did; stages of the project that it did not come to keep the time of when they ran."""
    now = {outcome.stage: outcome for outcome in outcomes}
    rows = []
    for stage, spec in STAGES.items():
        record = run.project.record(stage)
        if record is None and stage not in now:
            continue
        result = now[stage].result if stage in now else (record or {})["result"]
        ran = stage in now and now[stage].action == "run"
        seconds = now[stage].seconds if ran else (record or {}).get("seconds")
        amount, said = str(result.get("amount", "")), str(result.get("summary", ""))
        spent = _spent(run, record or {})
        rows.append(data.StageRow(stage, spec.title, seconds, amount, said, "done" if ran else "fresh", spent))
    return rows


def _spent(run: Run, record: Mapping[str, Any]) -> data.Spending | None:
    """What a stage cost when it ran last, by the prices that are set now."""
    spent = record.get("spent")
    if spent is None:
        return None
    prices, hours = run.config.cluster, {name: spent[f"{name}_seconds"] / 3600 for name in ("core", "gpu")}
    costs = [
        hours[name] * price
        for name, price in (("core", prices.price_per_core_hour), ("gpu", prices.price_per_gpu_hour))
        if price is not None
    ]
    return data.Spending(
        work_seconds=spent["work_seconds"],
        core_seconds=spent["core_seconds"],
        gpu_seconds=spent["gpu_seconds"],
        num_bytes=spent["num_bytes"],
        reserved=spent["reserved"],
        useful_steps=spent.get("useful_steps", 0),
        repeated_steps=spent.get("repeated_steps", 0),
        all_seconds=spent["seconds_of_all_attempts"],
        cost=sum(costs) if costs else None,
    )


def _funnel(run: Run) -> list[data.FunnelStep]:
    videos = tables.videos(run.project).read(["status", "reason"])
    clips = tables.clips(run.project).read(["keep", "drop_reason", "quarantine"])
    return [
        data.FunnelStep(step.what, step.kept, step.dropped, "; ".join(f"{n} {why}" for why, n in step.reasons))
        for step in funnel(videos, clips)
    ]


def _clip_examples(run: Run, clips: tables.Table) -> list[data.ClipExample]:
    rows = clips.read(["clip_id", "caption", "caption_by", "label_by", "truth", "fps"], f"{KEPT} AND caption IS NOT NULL")
    picked = evenly(rows, NUM_CLIPS)
    frames = [decode_clip(blob) for _, blob in clips.read_blobs("video", [row["clip_id"] for row in picked])]
    return [
        data.ClipExample(
            frames=clip,
            caption=row["caption"],
            caption_by="whoever made the footage" if row["caption_by"] == row["label_by"] else "the captioner",
            fps=Fraction(row["fps"]),
            truth=json.loads(row["truth"])["fields"] if row["truth"] else None,
            said=parse(row["caption"]) if row["truth"] else None,
        )
        for row, clip in zip(picked, frames, strict=True)
    ]


def _reconstructions(run: Run) -> list[data.Reconstruction]:
    """Reads the pairs that the evaluation kept."""
    path = run.project.folder / "evaluations" / "reconstructions.npz"
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as kept:
        pairs = zip(kept["originals"], kept["decoded"], strict=True)
        return [data.Reconstruction(a, b, distortion.psnr(a, b)) for a, b in list(pairs)[:NUM_PAIRS]]


def _curves(run: Run, stage: str) -> list[data.Curve]:
    record = run.project.record(stage)
    metrics = read_metrics(Path(record["result"]["metrics"])) if record and record["result"].get("metrics") else []
    told = {name for _, values in metrics for name in values}
    names = sorted(name for name in told if name == "val_loss" or name.startswith("loss") or name.endswith("psnr"))
    return [
        data.Curve(f"{STAGES[stage].title}: {name}", {name: [(step, values[name]) for step, values in metrics if name in values]})
        for name in names
    ]


def _samples(run: Run) -> list[data.SampleVideo]:
    record = run.project.record("evaluate")
    found = []
    for row, video in pick_samples(run, record["result"]["model"]) if record else []:
        scores = json.loads(row["scores"])
        found.append(
            data.SampleVideo(
                prompt=row["prompt"],
                video=video,
                group=row["group"],
                seed=row["seed"],
                rewritten=row["rewritten"],
                truth=json.loads(row["truth"]) if row["truth"] else None,
                read=scores["read"],
                score=scores["temporal"]["score"],
                status=scores["temporal"]["status"],
            )
        )
    return found


def _lineage(run: Run) -> list[data.Maker]:
    found = []
    for stage, spec in STAGES.items():
        record = run.project.record(stage)
        if record is not None:
            made = str(record["result"].get("weights", ""))[:16]
            found.append(data.Maker(stage, record["maker"][:16], made, record["finished_at"], spec.upstream))
    return found


def _paths(run: Run) -> dict[str, str]:
    folder = run.project.folder
    named = {
        "report": folder / "report.html",
        "summary": folder / "summary.json",
        "samples": run.project.samples,
        "sheets": folder / "sheets",
    }
    return {name: str(path) for name, path in named.items()}


def _short_caption(run: Run) -> str:
    """Answers what a person could ask of footage of their own: the shortest caption that was trained on."""
    rows = tables.clips(run.project).read(["caption"], f"{TRAINING} AND caption IS NOT NULL")
    return min((row["caption"].replace('"', "") for row in rows if row["caption"]), key=len, default="what your footage shows")


def _next_commands(run: Run) -> list[str]:
    chosen = "" if run.project.name == "demo" and run.source is None else f" --project {run.project.name}"
    trained = model_folder("train_dit", run.project)
    if trained is None:
        return [f"kinora show funnel{chosen}", f"kinora plan{chosen}"]
    promoted = _json(run.project.folder / "evaluations" / "verdicts.json").get("promoted")
    model = "" if promoted else f" --model {trained}"
    prompt = "a red square moving left" if run.source is None else _short_caption(run)
    return [f'kinora generate "{prompt}" -o sample.mp4{chosen}{model}', f"kinora show models{chosen}", f"kinora plan{chosen}"]
