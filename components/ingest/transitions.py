"""Decides where scenes end: verifies proposed cuts, and finds fades and dissolves, from what is seen of each frame."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from components.measure.change import Look, blend, change, look, resemblance

if TYPE_CHECKING:
    from components.sections import Scenes

NEIGHBOURS = 2  # frames on each side that a cut is compared with
QUIET = 0.5  # change that is added to the neighbours', so that the noise of a still picture makes no cut
STEP_SECONDS = 0.1  # dissolves are looked for at about ten frames a second
MIN_STEPS, MAX_STEPS = 3, 16
MIN_STEP = 0.1  # change of one step of a dissolve
STEADY = (0.35, 4.0)  # the smallest and largest step of a dissolve, in median ones
OUTSIDE_QUIET = 0.15
MAX_BLEND_ERROR = 0.4  # of the whole change, in the middle of a dissolve
MAX_RESEMBLANCE = 0.55  # of the scenes on its two sides
MAX_FADE_SECONDS = 3.0  # of one side
DIP = 0.35  # how far luma and contrast sink in a fade, of what they are beside it
SLOPE = 0.3  # a fade's side ends where its steps fall below this share of their mean


@dataclass(frozen=True)
class Transition:
    """The way from one scene to the next: frames `first` to `last` belong to neither; a cut has none, and `last` = `first` - 1.

    `kind` is cut, dissolve, fade or gap (where damaged or missing frames were left out).
    """

    kind: str
    first: int
    last: int


@dataclass(frozen=True)
class _Dissolve:
    before: int  # the last frame of the old scene
    after: int  # the first frame of the new one
    score: float


class Watcher:
    """Looks at each frame once and keeps a few numbers of it; `transitions` decides when all are seen."""

    def __init__(self, settings: Scenes) -> None:
        self.settings = settings
        self.seconds: list[float] = []
        self.changes: list[float] = []  # from the frame before
        self.luma: list[float] = []
        self.contrast: list[float] = []
        self.gaps: list[int] = []
        self._last: Look | None = None
        self._steps: deque[tuple[int, Look, float]] = deque(maxlen=MAX_STEPS + 4)  # frame, its look, change from the step before
        self._dissolves: list[_Dissolve] = []

    def see(self, seconds: float, rgb: np.ndarray, after_gap: bool = False) -> None:
        """Takes in the next frame, uint8 (H, W, 3)."""
        index, seen = len(self.seconds), look(rgb)
        self.changes.append(change(self._last, seen) if self._last is not None else 0.0)
        self.seconds.append(seconds)
        self.luma.append(seen.luma)
        self.contrast.append(seen.contrast)
        if after_gap:
            self.gaps.append(index)
        self._last = seen
        if not self._steps or seconds - self.seconds[self._steps[-1][0]] >= STEP_SECONDS - 0.002:
            self._steps.append((index, seen, change(self._steps[-1][1], seen) if self._steps else 0.0))
            self._windows_ending_at(len(self._steps) - 1 - NEIGHBOURS)

    def transitions(self, proposed: Iterable[int]) -> list[Transition]:
        """Answers the transitions in order, none touching another.

        Args:
            proposed: frames at which a detector says that a new scene begins.
        """
        for late in range(NEIGHBOURS, 0, -1):
            self._windows_ending_at(len(self._steps) - late)
        gaps = [Transition("gap", t, t - 1) for t in self.gaps]
        fades = find_fades(np.array(self.seconds), np.array(self.luma), np.array(self.contrast), self.settings.fade_luma)
        cuts = [Transition("cut", t, t - 1) for t in sorted(set(proposed)) if self._is_cut(t)]
        dissolves = [
            Transition("dissolve", found.before + 1, found.after - 1) for found in sorted(self._dissolves, key=lambda found: -found.score)
        ]
        return _compatible([*gaps, *fades, *cuts, *dissolves], len(self.seconds))

    def _is_cut(self, t: int) -> bool:
        """Tells whether the change at a frame stands out from the frames around it, as no motion does."""
        if not 0 < t < len(self.changes):
            return False
        beside = [self.changes[i] for i in range(t - NEIGHBOURS, t + NEIGHBOURS + 1) if i != t and 0 < i < len(self.changes)]
        settings = self.settings
        return self.changes[t] >= max(settings.cut_change, settings.cut_ratio * (max(beside, default=0.0) + QUIET))

    def _windows_ending_at(self, b: int) -> None:
        """Tries all dissolves that end before step `b` of those at hand: steady change inside, little outside, a blend in the middle."""
        steps, settings = list(self._steps), self.settings
        if b < MIN_STEPS:
            return
        after = max((step[2] for step in steps[b + 1 : b + 1 + NEIGHBOURS]), default=math.nan)
        inside: list[float] = []
        for a in range(b - 1, max(-1, b - MAX_STEPS - 1), -1):
            inside.append(steps[a + 1][2])
            if inside[-1] < MIN_STEP or max(inside) > STEADY[1] * median(inside):
                return
            typical = median(inside)
            if len(inside) < MIN_STEPS or min(inside) < STEADY[0] * typical:
                continue
            before = max((step[2] for step in steps[max(1, a - 1) : a + 1]), default=math.nan)
            if math.isnan(before) and math.isnan(after):
                continue
            ratio = typical / (max(x for x in (before, after, 0.0) if not math.isnan(x)) + OUTSIDE_QUIET)
            if ratio >= settings.dissolve_ratio:
                self._try(steps[a], steps[b], steps[(a + b) // 2], ratio)

    def _try(self, start: tuple[int, Look, float], end: tuple[int, Look, float], middle: tuple[int, Look, float], ratio: float) -> None:
        whole = change(start[1], end[1])
        if whole < self.settings.dissolve_change:
            return
        share, left = blend(start[1], end[1], middle[1])
        dips = middle[1].contrast < (start[1].contrast + end[1].contrast) / 2
        if dips and abs(share - 0.5) < 0.25 and left <= MAX_BLEND_ERROR * whole and resemblance(start[1], end[1]) < MAX_RESEMBLANCE:
            self._dissolves.append(_Dissolve(start[0], end[0], ratio * min(whole, 20.0)))


def _compatible(candidates: Iterable[Transition], num_frames: int) -> list[Transition]:
    """Keeps transitions, given best first, that share no frame with a better one and have no cut inside; in order of time."""
    gradual, starts = np.zeros(num_frames + 1, bool), np.zeros(num_frames + 1, bool)
    kept = []
    for found in candidates:
        first, last = found.first, found.last
        if last < first:
            taken = starts[first] or (gradual[first] and gradual[first - 1])
            starts[first] |= not taken
        else:
            taken = gradual[first : last + 1].any() or starts[first + 1 : last + 1].any()
            if not taken:
                gradual[first : last + 1] = True
        if not taken:
            kept.append(found)
    return sorted(kept, key=lambda found: (found.first, found.last))


def find_fades(seconds: np.ndarray, luma: np.ndarray, contrast: np.ndarray, fade_luma: float) -> list[Transition]:
    """Finds the ways through black and through white: luma and contrast sink together, step by step, and rise again.

    Args:
        seconds, luma, contrast: (T,) of each frame.
        fade_luma: at or below it a frame is black, as far from 255 it is white.
    """
    found: list[tuple[int, int, int, int]] = []  # first, last, and the bottom between them
    for level in (luma, 255.0 - luma):
        scale = level + contrast
        for bottom, top in _bottoms(scale, level <= fade_luma):
            left, left_steps = _side(scale, seconds, bottom, -1)
            right, right_steps = _side(scale, seconds, top, +1)
            solid = bool((level[bottom : top + 1] <= fade_luma).all())
            if not solid and (left_steps < 2 or right_steps < 2 or level[bottom] > DIP * min(level[left], level[right])):
                continue
            sides = [end for end, steps in ((left, left_steps), (right, right_steps)) if steps]
            if max(left_steps, right_steps) < 2 or any(scale[bottom : top + 1].min() > DIP * scale[end] for end in sides):
                continue
            first, last = left + bool(left_steps), right - bool(right_steps)
            if seconds[top] - seconds[bottom] > 2 * MAX_FADE_SECONDS:  # a black scene of its own between two fades
                found += [(first, bottom, bottom, bottom)] if left_steps else []
                found += [(top, last, top, top)] if right_steps else []
            else:
                found.append((first, last, bottom, top))
    return _apart(found)


def _apart(found: list[tuple[int, int, int, int]]) -> list[Transition]:
    """Parts fades that run into each other, from black to white and back, half-way between their bottoms."""
    kept: list[tuple[int, int, int, int]] = []
    for first, last, bottom, top in sorted(found, key=lambda fade: fade[2]):
        if kept and first <= kept[-1][1]:
            half = (kept[-1][3] + bottom) // 2
            kept[-1] = (kept[-1][0], min(kept[-1][1], half), *kept[-1][2:])
            first = max(first, half + 1)
        kept.append((first, last, bottom, top))
    return [Transition("fade", first, last) for first, last, _, _ in kept if first <= last]


def _bottoms(scale: np.ndarray, solid: np.ndarray) -> list[tuple[int, int]]:
    """Answers runs (first, last) of solid frames, and single frames where the scale is lowest for a while."""
    runs = []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], solid.astype(int), [0]])))
    runs += [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    inner = scale[1:-1]
    for i in np.flatnonzero((inner <= scale[:-2]) & (inner < scale[2:])) + 1:
        if not solid[i]:
            runs.append((int(i), int(i)))
    return runs


def _side(scale: np.ndarray, seconds: np.ndarray, start: int, way: int) -> tuple[int, int]:
    """Walks from a bottom outwards as long as the scale keeps rising; answers the shoulder and the number of steps to it."""
    at, steps = start, 0
    while 0 <= at + way < len(scale) and abs(seconds[at + way] - seconds[start]) <= MAX_FADE_SECONDS:
        ahead = [scale[at + way * k] - scale[at] for k in (1, 2) if 0 <= at + way * k < len(scale)]
        gain = max(rise / (k + 1) for k, rise in enumerate(ahead))
        mean = (scale[at] - scale[start]) / steps if steps else 0.0
        if gain <= max(0.25, SLOPE * mean):
            break
        at, steps = at + way, steps + 1
    return at, steps
