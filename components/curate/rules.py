"""Keeps or drops a clip by its measures; what is dropped says by which rule and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.sections import Curate

READS = ("luma", "contrast", "sharpness", "motion", "repeat_share", "duplicate_of")
WRITES = ("keep", "drop_reason")


def judge(row: Mapping[str, Any], settings: Curate) -> dict[str, Any]:
    """Answers `keep` and `drop_reason` of one clip: the first rule that it breaks, as "rule: numbers"."""
    reason = _reason(row, settings)
    return {"keep": reason is None, "drop_reason": reason}


def _reason(row: Mapping[str, Any], settings: Curate) -> str | None:
    bounds = (
        ("too dark", "luma", settings.min_luma, None),
        ("too bright", "luma", None, settings.max_luma),
        ("too flat", "contrast", settings.min_contrast, None),
        ("too blurred", "sharpness", settings.min_sharpness, None),
        ("repeated frames", "repeat_share", None, settings.max_repeat_share),
        ("too still", "motion", settings.min_motion, None),
        ("too wild", "motion", None, settings.max_motion),
    )
    for rule, column, least, most in bounds:
        value = row[column]
        if value is None:  # one frame neither moves nor repeats
            continue
        if least is not None and value < least:
            return f"{rule}: {column} {value:.3g}, at least {least:g}"
        if most is not None and value > most:
            return f"{rule}: {column} {value:.3g}, at most {most:g}"
    if row["duplicate_of"] is not None:
        return f"duplicate: of {row['duplicate_of']}"
    return None
