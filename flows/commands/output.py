"""How a verb prints: tables and JSON to stdout, remarks to stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

PLAIN_WIDTH = 200  # columns of a table that goes to a file or a pipe


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows under headers, in the terminal's width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    click.echo(json.dumps(value, indent=1, default=str))


def remark(text: str) -> None:
    """Says something to the person, on stderr."""
    click.echo(text, err=True)


def duration(seconds: float | None) -> str:
    """Answers a time for people: 8 s, 2 min 5 s, 1 h 3 min."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
