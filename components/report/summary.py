"""What a run leaves behind in short: summary.json, and the lines at its end in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from components.report.data import Figure, ReportData, StageRow
from components.report.spent import total
from components.report.words import bar_text, duration, interval_text, number, size
from components.store.project import write_json

NAME = "summary.json"
SECONDS = "seconds_"
COSTS = ("work_seconds", "core_seconds", "gpu_seconds", "num_bytes", "cost")
EXTRAS = ("low", "high", "chance", "ceiling")


def summary(figures: Sequence[Figure], stages: Sequence[StageRow] = ()) -> dict[str, dict[str, Any]]:
    """Answers `{figure: {value, bar, holds}}`, with interval, chance and ceiling where known; a stage's time is a figure without a bar."""
    found: dict[str, dict[str, Any]] = {}
    for figure in figures:
        if figure.name in found:
            raise ValueError(f"two figures have the name `{figure.name}`")
        found[figure.name] = {"value": figure.value, "bar": figure.bar, "holds": figure.holds}
        found[figure.name] |= {extra: value for extra in EXTRAS if (value := getattr(figure, extra)) is not None}
    for stage in stages:
        found[SECONDS + stage.name] = {"value": stage.seconds, "bar": None, "holds": None}
        if stage.spent is not None:
            costs = {name: getattr(stage.spent, name) for name in COSTS}
            if stage.spent.useful_steps and stage.spent.all_seconds:
                costs["useful_steps_a_second"] = stage.spent.useful_steps / stage.spent.all_seconds
            named = {f"{name}_{stage.name}": value for name, value in costs.items() if value is not None}
            found |= {name: {"value": value, "bar": None, "holds": None} for name, value in named.items()}
    return found


def write_summary(folder: Path, figures: Sequence[Figure], stages: Sequence[StageRow] = ()) -> Path:
    """Writes summary.json into a folder and answers its path."""
    path = Path(folder) / NAME
    write_json(path, summary(figures, stages))
    return path


def summary_lines(data: ReportData) -> list[RenderableType]:
    """What the terminal shows at the end: stages, figures, verdicts, where things lie, and what to type next."""
    lines: list[RenderableType] = []
    if data.stages:
        lines += [_stages(data), *_spent(data), ""]
    if data.figures:
        lines += [_figures(data.figures), ""]
    for verdict in data.verdicts:
        promoted = verdict.outcome == "promote"
        name = f"{verdict.model} version {verdict.version}" if verdict.version else verdict.model
        lines.append(Text(f"{name}: {'promoted to champion' if promoted else 'not promoted'}", style="green" if promoted else "red"))
        lines += [Text(f"  {reason}", style="dim") for reason in verdict.reasons]
    lines += [Text(note, style="dim") for note in data.notes]
    width = max((len(name) for name in data.paths), default=0)
    lines += [Text(f"{name:{width}}  {path}", overflow="fold") for name, path in data.paths.items()]
    if data.next_commands:
        lines += ["", Text("next:", style="dim"), *(Text(f"  {command}", overflow="fold") for command in data.next_commands)]
    return lines


def _stages(data: ReportData) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in (("stage", "left"), ("time", "right"), ("amount", "left"), ("result", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for stage in data.stages:
        result = "fresh, nothing to do" if stage.status == "fresh" else stage.result
        style = {"fresh": "dim", "failed": "red"}.get(stage.status)
        table.add_row(*(Text(cell) for cell in (stage.name, duration(stage.seconds), stage.amount, result)), style=style)
    if data.total_seconds is not None:
        table.add_row("all", duration(data.total_seconds), "", "", style="bold")
    return table


def _spent(data: ReportData) -> list[Text]:
    """One line of what all stages cost."""
    seconds = sum(stage.seconds or 0.0 for stage in data.stages if stage.spent is not None)
    if not seconds:
        return []
    whole = total(data.stages)
    said = [f"{number(round(whole.core_seconds))} core-seconds" + (" reserved" if whole.reserved else "")]
    said += [f"{number(round(whole.gpu_seconds))} GPU-seconds"] if whole.gpu_seconds else []
    said += [
        f"{size(whole.num_bytes)} written",
        f"{number(min(1.0, whole.work_seconds / seconds), '%')} of the stages' time was work on rows and steps",
    ]
    said += [f"cost {whole.cost:.2f}"] if whole.cost is not None else []
    return [Text(f"spent: {', '.join(said)}", style="dim")]


def _figures(figures: Sequence[Figure]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in (("figure", "left"), ("value", "right"), ("interval", "left"), ("chance", "right"), ("bar", "left"), ("", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for figure in figures:
        holds = Text("") if figure.holds is None else Text("holds", style="green") if figure.holds else Text("not reached", style="red")
        chance = number(figure.chance, figure.unit) if figure.chance is not None else ""
        cells = (figure.label, number(figure.value, figure.unit), interval_text(figure), chance, bar_text(figure))
        table.add_row(*(Text(cell) for cell in cells), holds)
    return table
