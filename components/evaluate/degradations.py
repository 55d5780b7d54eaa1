"""Ways to spoil a clip, each of which the temporal score must rank below the clip itself.

A score that prefers a frozen, shuffled or blurred copy of a clip measures something else than temporal consistency, and a gate that
trusts it can be gamed; so the evaluation spoils clips of its own and counts how often the score notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, TypedDict

import numpy as np

from components.measure.consistency import Temporal, temporal

Map = Callable[..., Iterable[Any]]  # the builtin `map`, or a pool's
MUST_RANK = ("freeze", "shuffle", "blur")


class Ranking(TypedDict):
    """How often the score put the clip above its spoilt copy, among clips that move enough to have a score."""

    share: float | None
    num_clips: int


def freeze(frames: np.ndarray) -> np.ndarray:
    """Shows the middle frame all along."""
    return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)


def shuffle(frames: np.ndarray, seed: int = 0) -> np.ndarray:
    """Puts the frames in an order that leaves no two neighbours together (from five frames on)."""
    order = np.random.default_rng(seed).permutation(len(frames))
    if len(frames) < 5:
        return frames[np.argsort(np.arange(len(frames)) % 2, kind="stable")]
    while (np.abs(np.diff(order)) == 1).any():
        order = np.random.default_rng(seed := seed + 1).permutation(len(frames))
    return frames[order]


def blur(frames: np.ndarray, strength: float = 1 / 40) -> np.ndarray:
    """Blurs every frame by a Gaussian whose sigma is a share of the short side."""
    sigma = strength * min(frames.shape[1:3])
    blurred = frames.astype(np.float32)
    for axis in (1, 2):
        blurred = np.moveaxis(np.tensordot(_gaussian(frames.shape[axis], sigma), blurred, (1, axis)), 0, axis)
    return _to_bytes(blurred)


def stutter(frames: np.ndarray) -> np.ndarray:
    """Holds every second frame for two."""
    return frames[np.arange(len(frames)) // 2 * 2]


def noise(frames: np.ndarray, levels: float = 8, seed: int = 0) -> np.ndarray:
    """Adds Gaussian noise, new in every frame; `levels` is its sigma on the scale of 255."""
    return _to_bytes(frames + np.random.default_rng(seed).normal(0, levels, frames.shape).astype(np.float32))


def gain(frames: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Makes frames brighter and darker by turns."""
    factor = 1 + share * np.where(np.arange(len(frames)) % 2, 1, -1)
    return _to_bytes(frames * factor[:, None, None, None].astype(np.float32))


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "freeze": freeze,
    "shuffle": shuffle,
    "blur": blur,
    "stutter": stutter,
    "noise": noise,
    "gain": gain,
}


def ranking(
    clips: Sequence[np.ndarray],
    fps: Fraction | float,
    min_motion: float,
    sharp_at: float,
    names: Sequence[str] = tuple(DEGRADATIONS),
    pool_map: Map = map,
) -> dict[str, Ranking]:
    """Counts for each degradation the share of clips whose score is above that of their spoilt copy.

    A spoilt copy without a score (too still) is below every score. Clips without a score themselves are not counted.
    """
    judge = partial(_compare, fps=fps, min_motion=min_motion, sharp_at=sharp_at, names=tuple(names))
    wins = [found for found in pool_map(judge, list(clips)) if found is not None]
    return {name: Ranking(share=float(np.mean([won[name] for won in wins])) if wins else None, num_clips=len(wins)) for name in names}


def _compare(
    clip: np.ndarray, *, fps: Fraction | float, min_motion: float, sharp_at: float, names: tuple[str, ...]
) -> dict[str, bool] | None:
    own = temporal(clip, fps, min_motion, sharp_at)["score"]
    if own is None:
        return None
    return {name: own > _score(temporal(DEGRADATIONS[name](clip), fps, min_motion, sharp_at)) for name in names}


def _score(found: Temporal) -> float:
    return -1.0 if found["score"] is None else found["score"]


def _gaussian(side: int, sigma: float) -> np.ndarray:
    """A matrix (side, side) that blurs along one axis, its rows renormalised at the edges."""
    places = np.arange(side, dtype=np.float32)
    weights = np.exp(-0.5 * np.square((places[:, None] - places) / sigma))
    return weights / weights.sum(1, keepdims=True)


def _to_bytes(frames: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)
