"""Charts as inline SVG and plain boxes: loss curves, the funnel, shares with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.report.data import Curve, FunnelStep
from components.report.page import text
from components.report.words import number

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 26
LOG_FROM = 20  # largest over smallest value from which a chart is logarithmic
MOST_POINTS = 240

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """One measured share of a row of `shares`."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def curve(chart: Curve) -> str:
    """A line chart with a legend; logarithmic where the values span much. Values that are not finite are left out."""
    series = {name: _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]) for name, points in chart.series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    log = min(ys) > 0 and max(ys) / min(ys) >= LOG_FROM
    low, high = _limits(min(ys), max(ys), log)
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    first, last = min(xs), max(max(xs), min(xs) + 1e-9)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        share = (math.log(y / low) / math.log(high / low)) if log else (y - low) / (high - low)
        return f"{across:.1f},{TOP + (1 - share) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for tick in ticks:
        y = place(first, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 3.5:.1f}" text-anchor="end">{text(_short(tick))}</text>')
    for x, anchor in ((first, "start"), (last, "end")):
        across = place(x, ticks[0]).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text(number(round(x)))}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">steps</text>')
    for i, points in enumerate(series.values()):
        path = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline class="line s{i % 4}" points="{path}"/>')
        end = place(*points[-1]).split(",")
        parts.append(f'<circle class="end s{i % 4}" cx="{end[0]}" cy="{end[1]}" r="2.6"/>')
    legend = "".join(
        f'<span class="key"><i class="s{i % 4}"></i>{text(name)} <b>{text(number(points[-1][1], chart.unit))}</b></span>'
        for i, (name, points) in enumerate(series.items())
    )
    scale = " <small>log scale</small>" if log else ""
    return (
        f'<figure class="chart"><figcaption>{text(chart.title)}{scale}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(chart.title)} by step">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def funnel(steps: Sequence[FunnelStep]) -> str:
    """One bar a step, as long as what it let through, with what it stopped in a paler tone behind."""
    most = max((step.kept + step.dropped for step in steps), default=0)
    if not most:
        return ""
    rows = []
    for step in steps:
        kept, came = 100 * step.kept / most, 100 * (step.kept + step.dropped) / most
        dropped = f"{step.dropped:,} left out" + (f": {step.reason}" if step.reason else "") if step.dropped else step.reason
        rows.append(
            f'<div class="step"><span class="name">{text(step.step)}</span><span class="count">{step.kept:,}</span>'
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="came" width="{came:.2f}" height="10"/><rect class="kept" width="{kept:.2f}" height="10"/>'
            f'</svg><span class="why">{text(dropped)}</span></div>'
        )
    return f'<div class="funnel">{"".join(rows)}</div>'


def shares(rows: Mapping[str, Sequence[Dot]], chance: Mapping[str, float], ceiling: Mapping[str, float], label: str) -> str:
    """Shares from 0 to 100 %: one row a field, a dot with its interval for each name, ticks for chance and ceiling."""
    names = list(dict.fromkeys(dot.name for dots in rows.values() for dot in dots))
    body = []
    for field, dots in rows.items():
        marks = []
        if field in chance:
            marks.append(f'<i class="tick chance" style="left:{_at(chance[field])}"></i>')
        if field in ceiling:
            marks.append(f'<i class="tick ceiling" style="left:{_at(ceiling[field])}"></i>')
        said = []
        for dot in dots:
            tone = f"s{names.index(dot.name) % 4}"
            row = f"top:{100 * (names.index(dot.name) + 1) / (len(names) + 1):.0f}%"
            if dot.low is not None and dot.high is not None:
                width = max(0.0, min(1.0, dot.high) - max(0.0, dot.low))
                marks.append(f'<i class="reach {tone}" style="left:{_at(dot.low)};width:{100 * width:.1f}%;{row}"></i>')
            marks.append(f'<i class="dot {tone}" style="left:{_at(dot.value)};{row}"></i>')
            said.append(f'<span class="{tone}">{text(number(dot.value, "%"))}</span>')
        body.append(
            f'<div class="field"><span class="name">{text(field)}</span><span class="track">{"".join(marks)}</span>'
            f'<span class="value">{"".join(said)}</span></div>'
        )
    keys = "".join(f'<span class="key"><i class="s{i % 4}"></i>{text(name)}</span>' for i, name in enumerate(names))
    keys += '<span class="key"><i class="tick chance"></i>chance</span>' if chance else ""
    keys += '<span class="key"><i class="tick ceiling"></i>ceiling: the same, read off VAE reconstructions</span>' if ceiling else ""
    return f'<div class="shares" role="img" aria-label="{text(label)}"><div class="legend">{keys}</div>{"".join(body)}</div>'


def _at(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.1f}%"


def _thinned(points: Points) -> list[tuple[float, float]]:
    """Averages neighbours until few enough are left; the last point stays as it is."""
    points = list(points)
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups] + [points[-1]]


def _limits(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return low / 1.1, high * 1.1
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    floor = 0.0 if 0 <= low < 0.35 * high else low - room
    return floor, high + room


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(inside) >= 2:
        return inside[:: -(-len(inside) // 5)]
    return [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high] or [low, high]


def _short(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if value and (abs(value) < 0.001 or abs(value) >= 1e5) else f"{value:g}"
