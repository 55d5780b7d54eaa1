"""Plans the shapes that clips are cut to: few, at the footage's own aspects and lengths, so that little is cropped or cut off.

Footage is shrunk until it covers a shape and cropped, never enlarged; its frames are cut into clips of the shape's length, and what
is left over into shorter ones of the same sides where such are planned. What a set of shapes keeps of footage is a facility location
problem: shapes are chosen one by one, each the one that adds most to those that are there, then exchanged as long as that helps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from components.sections import Clip

COUNTED = 0.3  # how much a piece counts for being one, beside its pixels times frames
LARGER = 0.25  # power of a shape's volume in its favour: of shapes that keep about as much, the larger one
LEVELS = (1.0, 0.5, 0.25, 0.125)  # of the most pixels, for smaller footage
MOST_LENGTHS = 12
MOST_SIDES = 96  # of footage whose own aspects are planned for, those with the most pixels times frames
LOST = ("cropped", "cut_off", "left_out", "too_short", "too_small", "unplanned")
MOST_PIECES = 2048  # different ones that a plan weighs, the weightiest; what becomes of the others is told all the same


@dataclass(frozen=True, order=True)
class Shape:
    """Of clips: frames, height and width in pixels."""

    num_frames: int
    height: int
    width: int

    @property
    def volume(self) -> int:
        return self.num_frames * self.height * self.width

    @property
    def sides(self) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Piece:
    """A stretch of footage without a cut: height and width in pixels, its frames at the clips' rate, and whether it is an image."""

    height: int
    width: int
    num_frames: int
    still: bool = False

    @property
    def volume(self) -> int:
        return self.num_frames * self.height * self.width


@dataclass(frozen=True)
class Shapes:
    """What clips may be, the largest first.

    Attributes:
        max_clips: of one piece.
        enlarges: whether smaller footage is blown up to a shape.
    """

    shapes: tuple[Shape, ...]
    max_clips: int
    enlarges: bool = False

    def best(self, piece: Piece) -> Shape | None:
        """Answers the shape that, with the shorter ones of its sides, keeps most of a piece, larger ones favoured; None where none fits."""
        worth = [self._worth(piece, shape) for shape in self.shapes]
        place = int(np.argmax(worth))
        return self.shapes[place] if worth[place] > 0.0 else None

    def lengths(self, shape: Shape) -> list[int]:
        """Answers the lengths of clips that a piece is cut to whose shape this is, the longest first: what is left becomes shorter ones."""
        shorter = {other.num_frames for other in self.shapes if other.sides == shape.sides and 1 < other.num_frames < shape.num_frames}
        return [shape.num_frames, *sorted(shorter, reverse=True)]

    def cut(self, piece: Piece) -> list[tuple[int, Shape]]:
        """Answers at which frame each clip of a piece begins, and its shape; none where no shape fits."""
        shape = self.best(piece)
        if shape is None:
            return []
        return [(at, Shape(length, *shape.sides)) for at, length in spread(piece.num_frames, self.lengths(shape), self.max_clips)]

    def of_kind(self, still: bool) -> list[Shape]:
        """Answers the shapes of images, or else of films."""
        return [shape for shape in self.shapes if (shape.num_frames == 1) == still]

    def _worth(self, piece: Piece, shape: Shape) -> float:
        in_space = shown(piece, shape.sides, self.enlarges)
        if not in_space or piece.still != (shape.num_frames == 1) or piece.num_frames < shape.num_frames:
            return 0.0
        cut = spread(piece.num_frames, self.lengths(shape), self.max_clips)
        area = shape.height * shape.width
        return in_space * sum(length * (length * area) ** LARGER for _, length in cut) / piece.num_frames

    def shortest(self, height: int, width: int, still: bool) -> int | None:
        """Answers how many frames a scene of this size must have at least to become clips, or images; None where no shape fits the size."""
        scene = Piece(height, width, 1)
        return min((shape.num_frames for shape in self.of_kind(still) if shown(scene, shape.sides, self.enlarges)), default=None)


def shown(piece: Piece, sides: tuple[int, int], enlarges: bool = False) -> float:
    """Answers the share of a piece's picture that shapes of these sides show; 0 where it would have to be enlarged and is not."""
    scale = max(sides[0] / piece.height, sides[1] / piece.width)
    return sides[0] * sides[1] / (piece.height * piece.width * scale**2) if scale <= 1.0 or enlarges else 0.0


def one_shape(clip: Clip) -> Shapes:
    """Answers the shape of settings that ask for one, and that of an image in it."""
    shapes = (Shape(clip.num_frames, clip.height, clip.width), Shape(1, clip.height, clip.width))
    return Shapes(shapes[: 1 if clip.num_frames == 1 else 2], clip.max_clips_per_scene, enlarges=True)


def spread(available: int, lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Answers where to begin up to `most` pieces and how long each is, without overlap, the gaps around them as even as can be.

    Args:
        lengths: that pieces may have, the longest first: as many as fit of each, then of the next.
    """
    chosen: list[int] = []
    left = available
    for length in lengths:
        count = min(most - len(chosen), left // length)
        chosen += [length] * count
        left -= count * length
    places, before = [], 0
    for i, length in enumerate(chosen):
        places.append((before + round((i + 1) * left / (len(chosen) + 1)), length))
        before += length
    return places


@dataclass(frozen=True)
class Plan:
    """Shapes, and what becomes of the footage that they were planned from; the shares are of its pixels times frames.

    Attributes:
        clips: of each shape.
        pieces, used: how many there are, and of how many at least one clip is cut.
        kept: shrinking is no loss; all else is, and the other shares say why.
        cropped: another aspect. cut_off: no whole clip any more. left_out: more clips than `clip.max_clips_per_scene`.
        too_short, too_small, unplanned: pieces of which no clip is cut, since scenes are to be longer or each shape that they cover is,
            since they cover none, or since there is none for images or for films.
        volume: pixels times frames of all pieces.
    """

    shapes: Shapes
    clips: tuple[int, ...]
    pieces: int
    used: int
    kept: float
    cropped: float
    cut_off: float
    left_out: float
    too_short: float
    too_small: float
    unplanned: float
    volume: int

    @property
    def discarded(self) -> dict[str, float]:
        """The shares that are lost, by reason."""
        return {
            "cropped to another aspect": self.cropped,
            "cut off at the end of a scene": self.cut_off,
            "beyond `clip.max_clips_per_scene`": self.left_out,
            "scenes shorter than every shape or than allowed": self.too_short,
            "footage smaller than every shape": self.too_small,
            "images, or films, without any shape": self.unplanned,
        }

    def as_dict(self) -> dict[str, Any]:
        """Answers the plan as JSON."""
        limits = {"max_clips": self.shapes.max_clips, "enlarges": self.shapes.enlarges}
        return {**asdict(self), "shapes": [list(vars(shape).values()) for shape in self.shapes.shapes], **limits}

    @classmethod
    def is_one(cls, record: Mapping[str, Any]) -> bool:
        """Tells whether `of` can read a record: an earlier version's may lack some of it."""
        return set(cls.__dataclass_fields__) <= record.keys()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Plan:
        """Reads what `as_dict` answered."""
        shapes = Shapes(tuple(Shape(*sides) for sides in record["shapes"]), record["max_clips"], record["enlarges"])
        return cls(shapes, tuple(record["clips"]), *(record[name] for name in list(cls.__dataclass_fields__)[2:]))


def plan_shapes(pieces: Sequence[Piece], clip: Clip, min_scene_seconds: float) -> Plan:
    """Plans at most `clip.max_shapes` shapes for pieces of footage; images and films are not lost, however few of either there are.

    Raises:
        ValueError: no piece is as large and as long as the smallest shape that there may be, or as scenes are to be.
    """
    if clip.max_shapes == 1:
        return account(pieces, one_shape(clip), clip, min_scene_seconds)
    usable = [piece for piece in pieces if _is_scene(piece, clip, min_scene_seconds)]
    if not usable:
        raise ValueError(f"no scene is as long as `scenes.min_scene_seconds` of {min_scene_seconds:g}; hint: a lower one")
    shapes = chosen_shapes(usable, clip, min_scene_seconds, clip.max_shapes)
    if not shapes:
        least = smallest_shape(clip, min_scene_seconds, still=clip.num_frames == 1)
        said = f"{least.height} x {least.width} pixels and {least.num_frames} frames at {clip.fps} fps"
        raise ValueError(f"no footage is as large and as long as {said}; hint: a lower `clip.side_multiple` or `clip.frames_multiple`")
    for still in (True, False):
        if not Shapes(tuple(shapes), 1).of_kind(still):
            of_kind, others = [piece for piece in usable if piece.still == still], [piece for piece in usable if piece.still != still]
            if own := chosen_shapes(of_kind, clip, min_scene_seconds, 1):
                shapes = chosen_shapes(others, clip, min_scene_seconds, clip.max_shapes - 1) + own
    return account(pieces, Shapes(tuple(sorted(shapes, reverse=True)), clip.max_clips_per_scene), clip, min_scene_seconds)


def extended(plan: Plan, pieces: Sequence[Piece], clip: Clip, min_scene_seconds: float) -> Plan:
    """Adds shapes for images, or films, of which a plan has none, and leaves its own: as many as `clip.max_shapes` has room for, or one.

    Args:
        pieces: of that kind, none of which the plan was made from.
    """
    usable = [piece for piece in pieces if _is_scene(piece, clip, min_scene_seconds)]
    own = chosen_shapes(usable, clip, min_scene_seconds, max(1, clip.max_shapes - len(plan.shapes.shapes)))
    if not own:
        return plan
    shapes = replace(plan.shapes, shapes=tuple(sorted((*plan.shapes.shapes, *own), reverse=True)))
    more, volume = account(pieces, shapes, clip, min_scene_seconds), plan.volume + sum(piece.volume for piece in pieces)
    before = dict(zip(plan.shapes.shapes, plan.clips, strict=True))
    shares = {name: (getattr(plan, name) * plan.volume + getattr(more, name) * more.volume) / volume for name in ("kept", *LOST)}
    clips = tuple(before.get(shape, 0) + count for shape, count in zip(shapes.shapes, more.clips, strict=True))
    return Plan(shapes, clips, plan.pieces + more.pieces, plan.used + more.used, **shares, volume=volume)


def chosen_shapes(pieces: Sequence[Piece], clip: Clip, min_scene_seconds: float, most: int) -> list[Shape]:
    """Answers at most so many shapes that keep most of pieces; none where no piece is as large and as long as the smallest."""
    volume = sum(piece.volume for piece in pieces)
    weight = {piece: count * (piece.volume / volume + COUNTED / len(pieces)) for piece, count in Counter(pieces).items()}
    weighed = sorted(weight, key=lambda piece: -weight[piece])[:MOST_PIECES]
    candidates = possible_shapes(weighed, clip, min_scene_seconds)
    kept = kept_by_each(weighed, candidates, clip.max_clips_per_scene)  # (pieces, shapes)
    if not kept.any():
        return []
    volumes = np.array([shape.volume for shape in candidates], dtype=float)
    worth = kept * volumes**LARGER
    worth /= np.maximum(worth.max(axis=1, keepdims=True), 1e-9)  # of the best that there could be
    weights = np.array([weight[piece] for piece in weighed])
    return [candidates[place] for place in exchanged(worth, weights, greedy(worth, weights, most))]


def smallest_shape(clip: Clip, min_scene_seconds: float, still: bool) -> Shape:
    """Answers the smallest shape that may be planned for images, or else for films."""
    lengths = possible_lengths(clip, min_scene_seconds)
    return Shape((lengths if still else lengths[1:] or lengths)[0], clip.side_multiple, clip.side_multiple)


def _is_scene(piece: Piece, clip: Clip, min_scene_seconds: float) -> bool:
    """Tells whether a piece is an image, or about as long as scenes are to be: what it lasts is known to a frame."""
    return piece.still or piece.num_frames >= floor(min_scene_seconds * clip.fps)


def possible_shapes(pieces: Sequence[Piece], clip: Clip, min_scene_seconds: float) -> list[Shape]:
    """Answers shapes of the pieces' own aspects at several sizes, in each of the lengths that clips may have."""
    multiple, most = clip.side_multiple, clip.height * clip.width
    sides = set()
    for height, width in list(dict.fromkeys((piece.height, piece.width) for piece in pieces))[:MOST_SIDES]:
        for level in LEVELS:
            shrunk = min(1.0, sqrt(level * most / (height * width)))
            rounded = [int(side * shrunk + multiple / 2) // multiple * multiple for side in (height, width)]
            for tall in (rounded[0], rounded[0] - multiple):
                for wide in (rounded[1], rounded[1] - multiple):
                    if multiple <= tall <= height and multiple <= wide <= width and tall * wide <= most:
                        sides.add((tall, wide))
    return sorted(Shape(length, tall, wide) for length in possible_lengths(clip, min_scene_seconds) for tall, wide in sides)


def possible_lengths(clip: Clip, min_scene_seconds: float) -> list[int]:
    """Answers the lengths of planned clips: 1 of images, and 1 + multiples up to `clip.num_frames`, none shorter than scenes may be.

    Where scenes are to be longer than any clip, that is the longest alone.
    """
    period = clip.frames_multiple
    longest, fewest = (clip.num_frames - 1) // period, max(1, ceil((min_scene_seconds * clip.fps - 1) / period - 1e-6))
    counts = {round(count) for count in np.linspace(min(fewest, longest), longest, MOST_LENGTHS)} if longest else set()
    return [1, *(1 + period * count for count in sorted(counts))]


def kept_by_each(pieces: Sequence[Piece], shapes: Sequence[Shape], most: int) -> np.ndarray:
    """Answers which share of each piece's pixels times frames at most so many clips of each shape alone keep, (pieces, shapes)."""
    height, width, frames = (np.array([getattr(piece, name) for piece in pieces])[:, None] for name in ("height", "width", "num_frames"))
    tall, wide, long = (np.array([getattr(shape, name) for shape in shapes]) for name in ("height", "width", "num_frames"))
    scale = np.maximum(tall / height, wide / width)
    alike = np.array([piece.still for piece in pieces])[:, None] == (long == 1)
    in_space, in_time = tall * wide / (height * width * scale**2), np.minimum(frames // long, most) * long / frames
    return np.where(alike & (scale <= 1.0), in_space * in_time, 0.0)


def account(pieces: Sequence[Piece], shapes: Shapes, clip: Clip, min_scene_seconds: float) -> Plan:
    """Says what becomes of pieces that are cut to these shapes."""
    clips: Counter[Shape] = Counter()
    kept, used, lost = 0.0, 0, dict.fromkeys(LOST, 0.0)
    total = sum(piece.volume for piece in pieces)
    for piece, count in Counter(pieces).items():
        volume, shape = count * piece.volume / total, shapes.best(piece)
        if shape is None or not _is_scene(piece, clip, min_scene_seconds):
            lost[_why_unused(piece, shapes)] += volume
            continue
        in_space, cut = shown(piece, shape.sides, shapes.enlarges), shapes.cut(piece)
        taken = sum(found.num_frames for _, found in cut) / piece.num_frames
        whole = sum(length for _, length in spread(piece.num_frames, shapes.lengths(shape), piece.num_frames)) / piece.num_frames
        clips.update({found: count * number for found, number in Counter(found for _, found in cut).items()})
        used += count
        kept += volume * in_space * taken
        lost["cropped"] += volume * (1.0 - in_space) * taken
        lost["cut_off"] += volume * (1.0 - whole)
        lost["left_out"] += volume * (whole - taken)
    return Plan(shapes, tuple(clips[shape] for shape in shapes.shapes), len(pieces), used, kept, **lost, volume=total)


def _why_unused(piece: Piece, shapes: Shapes) -> str:
    """Answers which of the lost shares a piece counts in of which no clip is cut."""
    if not shapes.of_kind(piece.still):
        return "unplanned"
    return "too_small" if shapes.shortest(piece.height, piece.width, piece.still) is None else "too_short"


def greedy(worth: np.ndarray, weights: np.ndarray, most: int) -> list[int]:
    """Chooses columns one by one, each the one that adds most to the weighted sum of each row's largest."""
    places: list[int] = []
    best = np.zeros(len(worth))
    while len(places) < most:
        gains = weights @ np.maximum(worth, best[:, None]) - weights @ best
        place = int(gains.argmax())
        if gains[place] <= 1e-9:
            break
        places.append(place)
        best = np.maximum(best, worth[:, place])
    return places


def exchanged(worth: np.ndarray, weights: np.ndarray, places: list[int]) -> list[int]:
    """Exchanges one chosen column for another as long as the sum grows."""
    improved = True
    while improved:
        improved = False
        for at in range(len(places)):
            best = worth[:, places[:at] + places[at + 1 :]].max(axis=1, initial=0.0)
            sums = weights @ np.maximum(worth, best[:, None])
            place = int(sums.argmax())
            if sums[place] > weights @ np.maximum(best, worth[:, places[at]]) + 1e-9:
                places[at], improved = place, True
    return places
