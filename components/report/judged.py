"""The sections that judge generated videos: the grid, following the prompt, temporal consistency."""

from __future__ import annotations

from collections.abc import Mapping

from components.report.charts import Dot, shares
from components.report.data import ReportData, SampleVideo
from components.report.page import chips, evenly, film, section, table, text
from components.report.words import number

GROUPS = {
    "unseen": "Combinations no training film shows",
    "seen": "Combinations seen in training",
    "real": "Captions of held-out clips",
}
SHOWN_PER_GROUP = 18
FIELD_NAMES = {"triple": "the first three", "all": "all five"}
MEASURES = {
    "motion": ("motion", "short sides a second, the fastest 5 % of the pixels"),
    "unexplained": ("change that no motion explains", "warping error over the difference of neighbouring frames"),
    "warp_error": ("warping error", "mean squared, colours from 0 to 1"),
    "acceleration": ("change of motion", "0 steady, 1 every motion starts from nothing"),
    "repeat_share": ("repeated frames", "share of frames that repeat the one before"),
    "flicker": ("flicker", "second difference of the mean light"),
    "roughness": ("roughness", "0.5 smooth, 1 frames in no order"),
    "sharpness": ("sharpness", "0 blurred, 1 sharp"),
}


def samples(data: ReportData) -> str:
    """The generated videos, grouped, each with what a reader that never saw the prompt made of it."""
    body = ""
    for group in dict.fromkeys((*GROUPS, *(sample.group for sample in data.samples))):
        members = [sample for sample in data.samples if sample.group == group]
        shown = evenly(members, SHOWN_PER_GROUP)
        if shown:
            count = f"{len(shown)} of {len(members)}" if len(shown) < len(members) else str(len(members))
            cards = "".join(_sample(sample) for sample in shown)
            body += f'<h3>{text(GROUPS.get(group, group))} <small>{count}</small></h3><div class="grid">{cards}</div>'
    judged = any(sample.read for sample in data.samples)
    lead = "Below each, the words a reader without weights found in it, which never sees the prompt." if judged else ""
    return section("samples", "Generated videos", lead, body)


def _sample(sample: SampleVideo) -> str:
    marks = chips(sample.truth, sample.read)
    score = f"consistency {sample.score:.2f}" if sample.score is not None else sample.status
    small = " ".join(f"<span>{text(part)}</span>" for part in (score, f"seed {sample.seed}" if sample.seed is not None else "") if part)
    rewritten = sample.rewritten if sample.rewritten and sample.rewritten != sample.prompt else ""
    said = f'<p class="small">as &ldquo;{text(rewritten)}&rdquo;</p>' if rewritten else ""
    return (
        f'<article>{film(sample.video, sample.prompt)}<p>{text(sample.prompt)}</p>{said}{marks}<p class="small facts">{small}</p></article>'
    )


def following(data: ReportData) -> str:
    """How samples follow their prompts, field by field."""
    evaluation = data.evaluation or {}
    groups = evaluation.get("groups")
    if not groups:
        note = evaluation.get("following_note")
        return section("following", "Following the prompt", "", f"<p>Not measured by field: {text(note)}.</p>") if note else ""
    fields = list(dict.fromkeys(field for group in groups.values() for field in group["fields"]))
    rows = {
        FIELD_NAMES.get(field, field): [
            Dot(name, group["fields"][field]["value"], group["fields"][field]["low"], group["fields"][field]["high"])
            for name, group in groups.items()
            if field in group["fields"]
        ]
        for field in fields
    }
    chance = {FIELD_NAMES.get(field, field): max(group["chance"].get(field, 0.0) for group in groups.values()) for field in fields}
    ceiling = {FIELD_NAMES.get(field, field): share["value"] for field, share in (evaluation.get("ceiling") or {}).items()}
    counts = ", ".join(f"{group['num_samples']} of {name} combinations ({group['num_prompts']} prompts)" for name, group in groups.items())
    more = ""
    if (share := evaluation.get("following")) and (above := evaluation.get("above_shuffled")):
        more = (
            f"<p>Over all fields {text(number(share['value'], '%'))} are right; judged by each other's prompts the same samples get "
            f"{text(number(share['value'] - above['value'], '%'))}. {text(_versus(data.comparison, 'following', 'following'))}</p>"
        )
    chart = shares(rows, chance, ceiling, "share of samples that have each field right")
    return section("following", "Following the prompt", f"Share of samples with each field right: {counts}.", chart + more)


def consistency(data: ReportData) -> str:
    """Temporal consistency beside that of real clips, and whether the score can be trusted."""
    evaluation = data.evaluation or {}
    sets = {"samples": evaluation.get("temporal"), "real clips": evaluation.get("real")}
    if data.champion_evaluation:
        sets["champion"] = data.champion_evaluation.get("temporal")
    known = {name: found for name, found in sets.items() if found}
    if not known:
        return ""
    rows = [
        ("<b>score</b> of those that move", *(_share(found["score"], "") for found in known.values())),
        ("clips that move", *(_share(found["moving_share"], "%") for found in known.values())),
    ]
    for key, (label, explained) in MEASURES.items():
        values = [text(number(found["means"].get(key))) for found in known.values()]
        rows.append((f'{text(label)}<br><span class="small">{text(explained)}</span>', *values))
    body = table(("measure", *known), rows, numeric=tuple(range(1, len(known) + 1)))
    ranked = {"samples": evaluation.get("ranking"), "real clips": evaluation.get("real_ranking")}
    tested = {name: found for name, found in ranked.items() if found}
    if tested:
        names = list(dict.fromkeys(name for found in tested.values() for name in found))
        lines = [(text(name), *(_ranked(found.get(name)) for found in tested.values())) for name in names]
        body += "<h3>Does the score notice?</h3><p>Share of clips whose own score is above that of a spoilt copy.</p>"
        body += table(("copy", *tested), lines, numeric=tuple(range(1, len(tested) + 1)))
    lead = f"Counted only for clips that move, so that a still picture earns nothing. {_versus(data.comparison, 'temporal', 'the score')}"
    return section("consistency", "Temporal consistency", lead, body)


def _share(found: Mapping | None, unit: str) -> str:
    if not found:
        return "-"
    value, low, high = (number(found[key], unit) if unit else f"{found[key]:.2f}" for key in ("value", "low", "high"))
    return f'<b>{text(value)}</b> <span class="small">{text(low)} to {text(high)}</span>'


def _ranked(found: Mapping | None) -> str:
    return (
        "-"
        if not found or found["share"] is None
        else f'{text(number(found["share"], "%"))} <span class="small">of {found["num_clips"]}</span>'
    )


def _versus(comparison: Mapping | None, key: str, label: str) -> str:
    found = (comparison or {}).get(key)
    if not found:
        return ""
    return f"Against the champion, pair by pair, {label} changes by {found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})."


def rightness(sample: SampleVideo) -> float:
    """How much of its prompt a sample shows, ties broken by its consistency."""
    if not sample.truth or sample.read is None:
        return sample.score or 0.0
    right = sum(sample.read.get(field) == wanted for field, wanted in sample.truth.items())
    return right + (sample.score or 0.0)
