"""Finds clips that show the same pictures in other files: encoded again, resized, or cut out at other moments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.measure.fingerprint import CELLS, WORDS, unpack

ROWS_AT_ONCE = 1024
FAR = 12.0  # mean colours that differ more (root mean square over cells) are not looked at closer
MIN_SHARED = 5  # frames that two clips must have in common, of nine
SHIFTED = 0.5  # how much stricter the limit is for clips that would have to be shifted: there are many ways to be alike by chance
LINKED = 1.5  # how much looser it is between two files of which one pair of clips is the same beyond doubt


@dataclass(frozen=True)
class Duplicates:
    """`duplicate_of` names the clip to keep for each one to drop; `groups` gives files that share pictures one name, by video_id."""

    duplicate_of: dict[str, str]
    groups: dict[str, str]


def find_duplicates(rows: Sequence[Mapping[str, Any]], max_difference: float) -> Duplicates:
    """Compares all clips of different files; of each set of equal ones that of the largest, then sharpest file is kept.

    The work grows with the square of the number of clips: 5000 take about a second, 100000 some minutes.

    Args:
        rows: with clip_id, video_id, crop, sharpness, perceptual_hash.
        max_difference: of the cell that differs most, 0 to 255, in any of the frames that two clips share.
    """
    pairs: list[tuple[int, int]] = []
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row["perceptual_hash"]:
            by_length[len(row["perceptual_hash"]) // WORDS].append(i)
    for members in by_length.values():
        prints = unpack([rows[i]["perceptual_hash"] for i in members])
        files = np.unique([rows[i]["video_id"] for i in members], return_inverse=True)[1]
        pairs += [(members[a], members[b]) for a, b in _same(prints, files, max_difference)]
    clips = _components(range(len(rows)), pairs)
    videos = _components([row["video_id"] for row in rows], [(rows[a]["video_id"], rows[b]["video_id"]) for a, b in pairs])
    duplicate_of = {}
    sharpness = _sharpness(rows)
    for members in clips.values():
        best = min(members, key=lambda i: (-_area(rows[i]), -sharpness[rows[i]["video_id"]], rows[i]["clip_id"]))
        duplicate_of.update({rows[i]["clip_id"]: rows[best]["clip_id"] for i in members if i != best})
    return Duplicates(duplicate_of, {video: min(members) for members in videos.values() for video in members})


def _same(prints: np.ndarray, files: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Answers pairs of fingerprints, uint8 (N, T, 192), that show the same frames, perhaps shifted in time."""
    frames = prints.shape[1]
    room = max(0, frames - MIN_SHARED)
    found: dict[tuple[int, int], float] = {}
    for shift in range(-room, room + 1):
        strictness = SHIFTED if shift else 1.0
        shared = [(t, t - shift) for t in range(max(0, shift), frames + min(0, shift))]
        near = _near(prints, files, shared, FAR * strictness)
        difference = _difference(prints, near, shared, limit * LINKED * strictness) / strictness
        close = difference <= limit * LINKED
        for (a, b), worst in zip(near[close].tolist(), difference[close].tolist(), strict=True):
            found[a, b] = min(worst, found.get((a, b), worst))
    linked = {(files[a], files[b]) for (a, b), worst in found.items() if worst <= limit}
    return [pair for pair in found if (files[pair[0]], files[pair[1]]) in linked]


def _near(prints: np.ndarray, files: np.ndarray, shared: list[tuple[int, int]], far: float) -> np.ndarray:
    """Answers pairs (P, 2) of different files, in order, whose colours over the shared frames are alike on average."""
    here, there = (_means(prints[:, [pair[side] for pair in shared]]) for side in (0, 1))  # (N, 48)
    ones = np.ones((len(prints), 1), np.float32)
    left = np.concatenate([-2 * here, (here * here).sum(axis=1, keepdims=True), ones], axis=1)
    right = np.concatenate([there, ones, (there * there).sum(axis=1, keepdims=True)], axis=1)  # left @ right.T: squared distances
    order = np.argsort(files, kind="stable")
    found = [np.empty((0, 2), np.int64)]
    for at in range(0, len(prints), ROWS_AT_ONCE):
        rows, columns = order[at : at + ROWS_AT_ONCE], order[at:]
        a, b = np.nonzero(left[rows] @ right[columns].T <= here.shape[1] * far**2)
        a, b = rows[a], columns[b]
        found.append(np.stack([a, b], axis=1)[files[a] < files[b]])
    return np.concatenate(found)


def _means(prints: np.ndarray) -> np.ndarray:
    """Averages fingerprints (N, T, 192) over time and over 2x2 cells: float32 (N, 48)."""
    cells = prints.mean(axis=1, dtype=np.float32).reshape(len(prints), CELLS // 2, 2, CELLS // 2, 2, 3)
    return cells.mean(axis=(2, 4)).reshape(len(prints), -1)


def _difference(prints: np.ndarray, pairs: np.ndarray, shared: list[tuple[int, int]], limit: float) -> np.ndarray:
    """Answers the largest difference of any cell over the frames that pairs share; infinite as soon as it is above the limit."""
    worst = np.full(len(pairs), np.inf)
    alive, largest = np.arange(len(pairs)), np.zeros(len(pairs))
    for here, there in sorted(shared, key=lambda pair: abs(pair[0] - shared[len(shared) // 2][0])):
        a, b = prints[pairs[alive, 0], here].astype(np.int16), prints[pairs[alive, 1], there].astype(np.int16)
        largest = np.maximum(largest, np.abs(a - b).max(axis=1, initial=0))
        alive, largest = alive[largest <= limit], largest[largest <= limit]
    worst[alive] = largest
    return worst


def _components(items: Iterable[Any], pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Answers the sets of items that pairs connect, each by one of its members."""
    parent = {item: item for item in items}

    def root(item: Any) -> Any:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        parent[root(a)] = root(b)
    sets: dict[Any, list[Any]] = defaultdict(list)
    for item in parent:
        sets[root(item)].append(item)
    return sets


def _sharpness(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Answers the mean sharpness of each file's clips, so that of two copies of a film one is kept whole."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["video_id"]].append(row["sharpness"] or 0.0)
    return {video: float(np.mean(found)) for video, found in values.items()}


def _area(row: Mapping[str, Any]) -> int:
    return row["crop"][2] * row["crop"][3] if row["crop"] else 0
