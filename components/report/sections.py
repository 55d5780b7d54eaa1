"""The sections of the report, each a function from data to HTML; one without data is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.report.charts import Dot, curve, funnel, shares
from components.report.data import ClipExample, Figure, ReportData, Verdict
from components.report.graph import graph
from components.report.judged import rightness
from components.report.page import chips, evenly, film, film_of, mark, section, strip, table, text
from components.report.words import bar_text, duration, interval_text, number

SHOWN_CLIPS = 20
SHOWN_RECONSTRUCTIONS = 6


def header(data: ReportData) -> str:
    """Name, verdict and a first look."""
    facts = [
        data.made_at,
        f"profile {data.profile}" if data.profile else "",
        f"{duration(data.total_seconds)} in all" if data.total_seconds else "",
    ]
    meta = " &middot; ".join(text(fact) for fact in facts if fact)
    subtitle = f'<p class="subtitle">{text(data.subtitle)}</p>' if data.subtitle else ""
    best = sorted(data.samples, key=lambda sample: (sample.group != "unseen", -rightness(sample)))[:6]
    hero = "".join(f"<figure>{film(sample.video, sample.prompt)}<figcaption>{text(sample.prompt)}</figcaption></figure>" for sample in best)
    look = (
        f'<div class="hero">{hero}</div><p class="small">The best-read of the generated videos; the whole grid is below.</p>'
        if hero
        else ""
    )
    notes = "".join(f"<p>{text(note)}</p>" for note in data.notes)
    return (
        f'<header><p class="brand">Kinora</p><h1>{text(data.project)}</h1>{subtitle}<p class="meta">{meta}</p></header>\n'
        f"{''.join(verdict(one) for one in data.verdicts)}{f'<div class=notes>{notes}</div>' if notes else ''}\n{look}"
    )


def verdict(one: Verdict) -> str:
    """What the gate decided of one model, and why."""
    promoted = one.outcome == "promote"
    name = text(one.model) + (f" version {text(one.version)}" if one.version else "")
    said = f"{name} was promoted to champion" if promoted else f"{name} was not promoted"
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in one.reasons)
    checks = "".join(
        f'<li class="{"" if check.holds else "bad"}">{mark(check.holds, "", "")} {text(check.sentence)}</li>' for check in one.checks
    )
    rules = f"<details><summary>{len(one.checks)} rules of the gate</summary><ul>{checks}</ul></details>" if checks else ""
    why = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<div class="verdict {"good" if promoted else "bad"}"><strong>{said}</strong>{why}{rules}</div>'


def figures(data: ReportData) -> str:
    """Every figure beside its bar."""
    rows = [
        (
            text(figure.label) + (f'<br><span class="small">{text(figure.note)}</span>' if figure.note else ""),
            f"<b>{text(number(figure.value, figure.unit))}</b>",
            text(interval_text(figure)),
            text(number(figure.chance, figure.unit)) if figure.chance is not None else "",
            text(number(figure.ceiling, figure.unit)) if figure.ceiling is not None else "",
            text(bar_text(figure)),
            mark(figure.holds),
        )
        for figure in data.figures
    ]
    lead = _held(data.figures) + (" Intervals are 95 %, by prompt." if any(figure.low is not None for figure in data.figures) else "")
    head = ("figure", "value", "interval", "chance", "ceiling", "bar", "")
    return section("figures", "Figures", lead, table(head, rows, numeric=(1, 2, 3, 4, 5)))


def _held(found: Sequence[Figure]) -> str:
    judged = [figure for figure in found if figure.holds is not None]
    if not judged:
        return ""
    return f"{sum(bool(figure.holds) for figure in judged)} of {len(judged)} bars are reached."


def stages(data: ReportData) -> str:
    """How long each stage took and what it gave."""
    longest = max((stage.seconds or 0 for stage in data.stages), default=0) or 1
    rows = [
        (
            f'<b>{text(stage.name)}</b><br><span class="small">{text(stage.title)}</span>',
            f'<span class="time">{text(duration(stage.seconds))}<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="kept" width="{100 * (stage.seconds or 0) / longest:.1f}" height="4"/></svg></span>',
            text(stage.amount),
            text(stage.result) if stage.status != "fresh" else '<span class="small">fresh, nothing to do</span>',
        )
        for stage in data.stages
    ]
    return section("stages", "Stages", "", table(("stage", "time", "amount", "result"), rows))


def footage(data: ReportData) -> str:
    """What came in, what was left, and what it looks like."""
    shown = evenly(data.clips, SHOWN_CLIPS)
    cards = "".join(f"<figure>{film_of(clip.frames, clip.fps, clip.caption)}</figure>" for clip in shown)
    sheet = f'<h3>Clips <small>{len(shown)} of those that were kept</small></h3><div class="sheet">{cards}</div>' if cards else ""
    return section("footage", "Footage", "From sources to training clips.", funnel(data.funnel) + sheet) if data.funnel or cards else ""


def captions(data: ReportData) -> str:
    """Captions beside their clips, and how often each field is right where the truth is known."""
    rows = [_caption(clip) for clip in evenly([clip for clip in data.clips if clip.caption], 8)]
    body = f'<div class="captions">{"".join(rows)}</div>' if rows else ""
    if data.captions:
        dots = {field: [Dot("captions", share["value"], share["low"], share["high"])] for field, share in data.captions.items()}
        body += shares(dots, {}, {}, "share of captions that have each field right")
    return section("captions", "Captions", "Each clip's caption, as the models read it." if rows else "", body)


def _caption(clip: ClipExample) -> str:
    by = f'<p class="small">by {text(clip.caption_by)}</p>' if clip.caption_by else ""
    marks = chips(clip.truth, clip.said)
    return f"<article>{strip(clip.frames, clip.caption)}<div><p>{text(clip.caption)}</p>{marks}{by}</div></article>"


def reconstructions(data: ReportData) -> str:
    """Held-out clips above what the VAE makes of them."""
    cards = []
    for pair in evenly(data.reconstructions, SHOWN_RECONSTRUCTIONS):
        both = strip(pair.original, "original", 5) + strip(pair.decoded, "reconstruction", 5)
        below = f"<figcaption>{text(number(pair.psnr))} dB</figcaption>" if pair.psnr is not None else ""
        cards.append(f"<figure>{both}{below}</figure>")
    body = f'<div class="pairs">{"".join(cards)}</div>' if cards else ""
    return section("reconstructions", "Reconstructions", "Clips held out of training above, what the video VAE gives back below.", body)


def curves(data: ReportData) -> str:
    """How the trainings went."""
    charts = "".join(curve(chart) for chart in data.curves)
    return section("training", "Training", "", f'<div class="charts">{charts}</div>' if charts else "")


def lineage(data: ReportData) -> str:
    """Who made what out of what, and the settings it was made with."""
    rows = [
        (
            f"<b>{text(one.name)}</b>",
            f"<code>{text(one.maker[:12])}</code>",
            text(one.version),
            text(one.made_at),
            " ".join(f"<code>{text(read[:12])}</code>" if len(read) == 64 else text(read) for read in one.reads),
        )
        for one in data.lineage
    ]
    body = graph(data.origin) + table(("what", "maker", "version", "made", "out of"), rows)
    if data.settings:
        body += f"<details><summary>all settings of this run</summary><pre>{text(_settings(data.settings))}</pre></details>"
    return section("lineage", "Lineage", "A maker is a digest of weights, settings and everything upstream." if rows else "", body)


def _settings(settings: Mapping, indent: str = "") -> str:
    lines = []
    for key, value in settings.items():
        lines.append(f"{indent}{key}:\n{_settings(value, indent + '  ')}" if isinstance(value, Mapping) else f"{indent}{key}: {value}")
    return "\n".join(lines)


def next_steps(data: ReportData) -> str:
    """Where things lie and what to type next."""
    places = table(("what", "where"), [(text(name), f"<code>{text(path)}</code>") for name, path in data.paths.items()])
    commands = "\n".join(text(command) for command in data.next_commands)
    return section("next", "Next", "", places + (f"<pre>{commands}</pre>" if commands else ""))
