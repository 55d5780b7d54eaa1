"""Numbers as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.report.data import Figure


def duration(seconds: float | None) -> str:
    """Says a time: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float | None, unit: str = "") -> str:
    """Says a value with its unit: shares as per cent, counts with thousands apart, nothing measured as a dash."""
    if value is None:
        return "-"
    if unit == "%":
        return f"{100 * value:.1f}".removesuffix(".0") + " %"
    if unit == "s":
        return duration(value)
    if float(value).is_integer() and abs(value) >= 1:
        text = f"{int(value):,}"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 10:
        text = f"{value:.1f}"
    elif abs(value) >= 0.01 or value == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.1e}"
    return f"{text} {unit}".strip()


def size(num_bytes: float) -> str:
    """Says an amount of bytes: 312 KiB, 1.4 GiB."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} bytes"
    power = next((power for power in (1, 2, 3) if num_bytes < 1024 ** (power + 1)), 4)
    amount = num_bytes / 1024**power
    return f"{amount:.{0 if amount >= 9.95 else 1}f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def bar_text(figure: Figure) -> str:
    """Says a figure's bar: at least 90 %."""
    if figure.bar is None:
        return ""
    return f"{'at most' if figure.relation == '<=' else 'at least'} {number(figure.bar, figure.unit)}"


def interval_text(figure: Figure) -> str:
    """Says a figure's interval: 82.0 % to 91.0 %."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low, figure.unit)} to {number(figure.high, figure.unit)}"
