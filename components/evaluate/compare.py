"""Candidate against champion on the same prompts and seeds: differences by pairs, drawn by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from components.evaluate.intervals import LEVEL, draw_means
from components.evaluate.suite import Row
from components.world.vocabulary import FIELDS


class Difference(TypedDict):
    """Candidate minus champion: the mean over pairs and its 95 % interval; positive is better."""

    value: float
    low: float
    high: float
    pairs: int


def compare(candidate: Sequence[Row], champion: Sequence[Row], bootstrap_samples: int, seed: int) -> dict[str, Difference]:
    """Compares two models sample by sample.

    Answers `following` (mean over the fields), each field by its name, `moving`, and `temporal` over the pairs in which both move.
    A measure that no pair has is left out.

    Raises:
        ValueError: the two were not sampled with the same prompts and seeds.
    """
    theirs = {(row["text"], row["seed"]): row for row in champion}
    pairs = [(row, theirs[key]) for row in candidate if (key := (row["text"], row["seed"])) in theirs]
    if not pairs or len(pairs) != len(candidate) or len(pairs) != len(champion):
        raise ValueError(
            f"candidate and champion share {len(pairs)} of {len(candidate)} and {len(champion)} samples; "
            "hint: sample the champion again with the candidate's prompts and seeds"
        )
    measures: dict[str, Callable[[Row], float | None]] = {
        "following": _following,
        **{field: _right(field) for field in FIELDS},
        "moving": lambda row: float(row["temporal"]["score"] is not None),
        "temporal": lambda row: row["temporal"]["score"],
    }
    found = {name: _difference(pairs, measure, bootstrap_samples, seed) for name, measure in measures.items()}
    return {name: difference for name, difference in found.items() if difference is not None}


def _difference(
    pairs: Sequence[tuple[Row, Row]], measure: Callable[[Row], float | None], bootstrap_samples: int, seed: int
) -> Difference | None:
    by_prompt: dict[str, list[float]] = {}
    for ours, theirs in pairs:
        mine, its = measure(ours), measure(theirs)
        if mine is not None and its is not None:
            by_prompt.setdefault(ours["text"], []).append(mine - its)
    if not by_prompt:
        return None
    sums = np.array([sum(values) for values in by_prompt.values()])
    sizes = np.array([float(len(values)) for values in by_prompt.values()])
    low, high = np.quantile(draw_means(sums, sizes, bootstrap_samples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value=float(sums.sum() / sizes.sum()), low=float(low), high=float(high), pairs=int(sizes.sum()))


def _following(row: Row) -> float | None:
    values = [value for field, value in (row["right"] or {}).items() if field in FIELDS]
    return float(np.mean(values)) if values else None


def _right(field: str) -> Callable[[Row], float | None]:
    def measure(row: Row) -> float | None:
        return float(row["right"][field]) if row["right"] and field in row["right"] else None

    return measure
