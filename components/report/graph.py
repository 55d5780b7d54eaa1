"""The way from files to a verdict as one picture: boxes in columns, a line from each box to those that read it. Inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.data import Node
from components.report.page import text

BOX, GAP, LINE, TOP, PAD = 134, 22, 15, 8, 10  # widths and heights in units of the picture
BETWEEN = 26
MOST_LETTERS = 20


def graph(nodes: Sequence[Node]) -> str:
    """Draws nodes; what one reads stands in a column before it. Empty without nodes."""
    if not nodes:
        return ""
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(node.column, []).append(node)
    tallest = max(sum(_height(node) + BETWEEN for node in column) - BETWEEN for column in columns.values())
    places: dict[str, tuple[float, float, int]] = {}
    for across, number in enumerate(sorted(columns)):
        column = columns[number]
        y = TOP + (tallest - sum(_height(node) + BETWEEN for node in column) + BETWEEN) / 2
        for node in column:
            places[node.key] = (across * (BOX + GAP) + 1, y, _height(node))
            y += _height(node) + BETWEEN
    width, height = len(columns) * (BOX + GAP) - GAP + 2, tallest + 2 * TOP
    lines = [_line(places[read], places[node.key]) for node in nodes for read in node.reads if read in places]
    boxes = [_box(node, *places[node.key][:2]) for node in nodes]
    said = text("; ".join(f"{node.title} from {', '.join(node.reads)}" if node.reads else node.title for node in nodes))
    return (
        f'<div class="scroll"><svg class="origin" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{said}">'
        f"{''.join(lines)}{''.join(boxes)}</svg></div>"
    )


def _height(node: Node) -> int:
    return 2 * PAD + LINE * (1 + len(node.lines)) - 2


def _line(begin: tuple[float, float, int], end: tuple[float, float, int]) -> str:
    x, y, to_x, to_y = begin[0] + BOX, begin[1] + begin[2] / 2, end[0], end[1] + end[2] / 2
    bend = (to_x - x) / 2 if to_x - x < 2 * GAP else GAP
    level = f" H {to_x - 2 * bend:.1f}" if to_x - x > 2 * GAP else ""
    start = to_x - 2 * bend if level else x
    curve = f"C {start + bend:.1f} {y:.1f} {to_x - bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    return f'<path class="edge" d="M {x:.1f} {y:.1f}{level} {curve}"/>'


def _box(node: Node, x: float, y: float) -> str:
    rows = [f'<text class="title" x="{x + PAD:.1f}" y="{y + PAD + 9:.1f}">{text(_short(node.title))}</text>']
    rows += [
        f'<text x="{x + PAD:.1f}" y="{y + PAD + 9 + LINE * (i + 1):.1f}">{text(_short(line))}</text>' for i, line in enumerate(node.lines)
    ]
    whole = text(" / ".join((node.title, *node.lines)))
    shape = f'<rect class="box {text(node.mood)}" x="{x:.1f}" y="{y:.1f}" width="{BOX}" height="{_height(node)}" rx="7"/>'
    return f"<g><title>{whole}</title>{shape}{''.join(rows)}</g>"


def _short(line: str) -> str:
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 3]}..."
