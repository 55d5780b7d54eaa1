"""The section that says what a run cost: time by stage and how much of it was work, cores, GPUs, disk, steps that counted."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.data import ReportData, Spending, StageRow
from components.report.page import section, table, text
from components.report.words import duration, number, size


def spent(data: ReportData) -> str:
    """One row a stage that ran, and their sum."""
    rows = [(stage.name, stage.seconds or 0.0, stage.spent) for stage in data.stages if stage.spent is not None]
    if not rows:
        return ""
    whole = total(data.stages)
    longest = max(seconds for _, seconds, _ in rows) or 1.0
    lines = [_line(name, seconds, one, longest) for name, seconds, one in rows if one is not None]
    lines.append(_line("all", sum(seconds for _, seconds, _ in rows), whole, 0.0))
    with_price, with_gpu = whole.cost is not None, whole.gpu_seconds > 0
    head = ["stage", "time, of it work", "core-seconds", "GPU-seconds", "written", "steps that counted", "cost"]
    left_out = ([] if with_gpu else [3]) + ([] if with_price else [6])
    kept = [at for at in range(len(head)) if at not in left_out]
    shown = [[line[at] for at in kept] for line in lines]
    lead = "Work is what lies between a stage's first row or step and its last; the paler rest is starting, loading and committing."
    if whole.reserved:
        lead += " Core-seconds are those reserved in the cluster."
    return section("spent", "Time and cost", lead, table([head[at] for at in kept], shown, numeric=[kept.index(at) for at in (2, 4)]))


def total(stages: Sequence[StageRow]) -> Spending:
    """Adds up what stages cost."""
    found = [stage.spent for stage in stages if stage.spent is not None]
    costs = [one.cost for one in found if one.cost is not None]
    return Spending(
        work_seconds=sum(one.work_seconds for one in found),
        core_seconds=sum(one.core_seconds for one in found),
        gpu_seconds=sum(one.gpu_seconds for one in found),
        num_bytes=sum(one.num_bytes for one in found),
        reserved=any(one.reserved for one in found),
        cost=sum(costs) if costs else None,
    )


def _line(name: str, seconds: float, one: Spending, longest: float) -> tuple[str, ...]:
    bar = ""
    if longest:
        whole, work = 100 * seconds / longest, 100 * min(one.work_seconds, seconds) / longest
        bar = (
            '<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="came" width="{whole:.1f}" height="4"/><rect class="kept" width="{work:.1f}" height="4"/></svg>'
        )
    said = f"{duration(seconds)}, {number(min(1.0, one.work_seconds / seconds), '%')}" if seconds else duration(seconds)
    return (
        f"<b>{text(name)}</b>",
        f'<span class="time">{text(said)}{bar}</span>',
        text(number(round(one.core_seconds))),
        text(number(round(one.gpu_seconds))),
        text(size(one.num_bytes)),
        text(steps(one)),
        text("" if one.cost is None else f"{one.cost:.2f}"),
    )


def steps(one: Spending) -> str:
    """Says how many steps brought a training on, at which pace of all time that it took, and how many were taken twice."""
    if not one.useful_steps:
        return ""
    pace = f", {number(one.useful_steps / one.all_seconds)} a second of all time" if one.all_seconds else ""
    return f"{one.useful_steps:,}{pace}" + (f"; {one.repeated_steps:,} taken twice" if one.repeated_steps else "")
