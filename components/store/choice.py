"""An even choice of rows."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Row = TypeVar("Row")


def evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """Answers at most `count` of the rows, the first and the last among them, as evenly spaced as can be."""
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))] if rows else []
