"""The funnel: how much of the footage became clips, and how many of the clips are kept, step by step."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOP = 3


@dataclass(frozen=True)
class Step:
    """One step of the funnel; `reasons` are the commonest with their numbers."""

    what: str
    kept: int
    dropped: int
    reasons: tuple[tuple[str, int], ...]


def funnel(videos: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Answers the steps in order: files found, files accepted, then clips after each rule that dropped any.

    Args:
        videos: rows with status, reason.
        clips: rows with keep, drop_reason, quarantine.
    """
    there = [row for row in videos if row["status"] != "missing"]
    refused = [row for row in there if row["status"] in ("rejected", "forgotten")]
    steps = [
        Step("files found", len(there), len(videos) - len(there), _top(row["reason"] for row in videos if row["status"] == "missing")),
        Step("files accepted", len(there) - len(refused), len(refused), _top(row["reason"] for row in refused)),
        Step("clips cut", len(clips), 0, ()),
    ]
    left = len(clips)
    dropped = Counter(rule_of(row["drop_reason"]) for row in clips if row["keep"] is False)
    for rule, count in dropped.most_common():
        left -= count
        steps.append(Step(f"not {rule}", left, count, ()))
    aside = [row["quarantine"] for row in clips if row["keep"] is not False and row["quarantine"] is not None]
    if aside:
        left -= len(aside)
        steps.append(Step("not in quarantine", left, len(aside), _top(aside)))
    waiting = sum(row["keep"] is None and row["quarantine"] is None for row in clips)
    steps.append(Step("clips kept", left - waiting, waiting, (("not measured yet", waiting),) if waiting else ()))
    return steps


def rule_of(reason: str | None) -> str:
    """Answers the rule of a drop reason, without its numbers."""
    return (reason or "dropped").split(":")[0]


def _top(reasons: Iterable[str | None]) -> tuple[tuple[str, int], ...]:
    """Counts reasons, numbers left out so that like ones count together."""
    return tuple(Counter(re.sub(r"\d[\d.]*", "N", reason or "no reason") for reason in reasons).most_common(TOP))
