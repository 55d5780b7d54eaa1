"""Means with 95 % intervals that know that samples of one prompt are alike: whole prompts are drawn, never single samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np

LEVEL = 0.95
NORMAL_QUANTILE = 1.959964  # of (1 + LEVEL) / 2


class Share(TypedDict):
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int


def share(values: Sequence[float | bool], clusters: Sequence[Hashable] | None = None, samples: int = 1000, seed: int = 0) -> Share:
    """Answers the mean of values and its interval by a bootstrap over clusters.

    Where all clusters agree, or there is only one, a bootstrap would claim certainty; then the interval is Wilson's for that many draws.

    Args:
        values: in [0, 1], or differences of such.
        clusters: what each value belongs to, for instance its prompt; every value stands for itself when not given.
        samples: draws of the bootstrap.
    """
    numbers = np.asarray(values, float)
    sums, sizes = _by_cluster(numbers, clusters)
    value = float(numbers.mean())
    means = sums / sizes
    if means.min() == means.max():
        low, high = wilson(abs(value), len(means))
        low, high = (low, high) if value >= 0 else (-high, -low)
    else:
        low, high = np.quantile(draw_means(sums, sizes, samples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Share(value=value, low=float(low), high=float(high), count=len(numbers))


def draw_means(sums: np.ndarray, sizes: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Draws clusters with replacement and answers the mean of each draw, float (samples,)."""
    picked = np.random.default_rng(seed).integers(len(sums), size=(samples, len(sums)))
    return sums[picked].sum(1) / sizes[picked].sum(1)


def wilson(value: float, count: int) -> tuple[float, float]:
    """The interval of a share seen in so many independent draws.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    z2 = NORMAL_QUANTILE**2
    middle = (value + z2 / (2 * count)) / (1 + z2 / count)
    reach = NORMAL_QUANTILE / (1 + z2 / count) * math.sqrt(value * (1 - value) / count + z2 / (4 * count**2))
    return max(0.0, min(value, middle - reach)), min(1.0, max(value, middle + reach))


def _by_cluster(numbers: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return numbers, np.ones_like(numbers)
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([places[name] for name in clusters])
    return np.bincount(index, numbers, len(places)), np.bincount(index, minlength=len(places)).astype(float)
