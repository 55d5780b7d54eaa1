"""Filters of rows that several stages share, and the safe ways to write one."""

from collections.abc import Iterable

UNHARMED = "quarantine IS NULL"
KEPT = f"keep = true AND {UNHARMED}"
TRAINING = f"{KEPT} AND split = 'train'"
CAPTIONED = f"{TRAINING} AND caption IS NOT NULL"
ENCODED = "latents IS NOT NULL AND text_embeds IS NOT NULL"
READY = f"{TRAINING} AND {ENCODED}"  # what the diffusion transformer learns from
HELD_OUT = f"{KEPT} AND split IN ('val', 'test')"
VALIDATION = f"{KEPT} AND split = 'val'"
LENT = "lent = true"  # its label is its caption, and may teach the captioner
LABELLED = f"{TRAINING} AND {LENT}"


def with_quarantine(where: str | None) -> str | None:
    """Answers one of these filters for the rows in quarantine too."""
    return where and where.replace(f" AND {UNHARMED}", "")


def with_lifted(where: str | None, clip_ids: Iterable[str]) -> str | None:
    """Answers one of these filters for some of the rows in quarantine too."""
    return where and where.replace(UNHARMED, f"({UNHARMED} OR {among('clip_id', clip_ids)})")


def distinct(column: str, value: str) -> str:
    """Answers the filter for rows whose column is not this value, null included (`!=` skips nulls).

    The brackets are needed: without them a following AND binds tighter than IS DISTINCT FROM.
    """
    return f"({column} IS DISTINCT FROM {quoted(value)})"


def among(column: str, values: Iterable[str]) -> str:
    """Answers the filter for rows whose column is one of these values."""
    listed = ", ".join(quoted(value) for value in values)
    return f"{column} IN ({listed})" if listed else "false"


def quoted(value: str) -> str:
    """Answers a text as a literal of a filter."""
    return "'" + value.replace("'", "''") + "'"
