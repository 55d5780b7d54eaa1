"""Which clips make a step: a number of one shape, as many of one shape as a budget of tokens holds, or of all shapes, packed.

All is decided for all workers together by (seed, step), so the data comes in one order on any number of workers. Needs numpy alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

Shapes = Mapping[tuple[int, ...], Sequence[int]]  # the rows of each


@dataclass(frozen=True)
class Step:
    """The rows of a step's clips, and for each worker the places among them of what it holds: none if clips are fewer than workers."""

    rows: np.ndarray
    places: list[np.ndarray]


@dataclass(frozen=True)
class Filling:
    """How steps are filled.

    Attributes:
        batch_size: clips of one shape, where there is no budget.
        tokens: at most, of a step; None: `batch_size` says how many clips.
        packed: clips of all shapes in one sequence a worker, up to the budget; else clips of one shape.
        world_size: workers that share a step.
    """

    batch_size: int
    tokens: int | None = None
    packed: bool = False
    world_size: int = 1

    def clips_of(self, tokens: int) -> int:
        """Answers how many clips of so many tokens make a step of one shape."""
        return self.batch_size if self.tokens is None else self.tokens // tokens

    def check(self, most_tokens: int) -> None:
        """Refuses steps that leave a worker without a clip.

        Raises:
            ValueError: there are fewer clips in a step than workers; or clips are packed without a budget.
        """
        workers = f"some of {self.world_size} workers" if self.world_size > 1 else "it"
        if self.tokens is None:
            if self.packed:
                raise ValueError("`dit.packing` fills a budget; hint: `--set dit.tokens_per_batch=N`")
            if self.batch_size < self.world_size:
                raise ValueError(
                    f"`dit.batch_size` of {self.batch_size} leaves {workers} without a clip; "
                    f"hint: `--set dit.batch_size={self.world_size}`, or fewer workers by `cluster.num_workers`"
                )
            return
        needed = most_tokens * self.world_size
        if self.tokens < needed:
            raise ValueError(
                f"`dit.tokens_per_batch` of {self.tokens} leaves {workers} without a clip, the largest of which has {most_tokens} tokens; "
                f"hint: `--set dit.tokens_per_batch={needed}`, or smaller clips by `clip`"
            )


@dataclass(frozen=True)
class Epoch:
    """What a first epoch makes of its steps, in shares.

    Attributes:
        steps: how many there are.
        unfilled: of the steps' room, tokens or `batch_size` clips each.
        seen_again: of the tokens, those of clips that the epoch had before.
        waiting: of the workers' time, that for the one with the most tokens of a step.
    """

    steps: int
    unfilled: float
    seen_again: float
    waiting: float


def steps_of(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int, first: int) -> Iterator[Step]:
    """Yields the steps from a first one on, epoch after epoch; in each, every clip is seen.

    Args:
        tokens: of each row.
        shapes: the rows of each shape.
    """
    for epoch in count():
        steps = _drawn(filling, tokens, shapes, seed, epoch)
        yield from _shared(filling, steps[first:], tokens, shapes)
        first = max(0, first - len(steps))


def first_epoch(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int) -> Epoch:
    """Answers what the first epoch makes of its steps; packed, later ones take about as many."""
    steps = _drawn(filling, tokens, shapes, seed, 0)
    held = room = slowest = 0
    for step in _shared(filling, steps, tokens, shapes):
        loads = [sum(tokens[row] for row in step.rows[places].tolist()) for places in step.places]
        held += sum(loads)
        room += filling.tokens or filling.batch_size * tokens[int(step.rows[0])]
        slowest += max(loads) * filling.world_size
    return Epoch(len(steps), 1.0 - held / room, 1.0 - sum(tokens) / held, 1.0 - held / slowest)


def _drawn(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int, epoch: int) -> list[np.ndarray]:
    """Answers the rows of each step of an epoch, whoever shares them."""
    random = np.random.default_rng([seed, epoch])
    return _packed(filling, tokens, random) if filling.packed else _by_shape(filling, tokens, shapes, random)


def _by_shape(filling: Filling, tokens: Sequence[int], shapes: Shapes, random: np.random.Generator) -> list[np.ndarray]:
    """Shuffles the clips of each shape and the order of batches.

    Within a budget a shape's last batch has what is left; where that is less than half of one, the last two share their clips: 65 clips
    of which a step holds 64 come as 33 and 32, and the batches before stay full, so workers wait no more. A last one of `batch_size`
    clips is filled up from the start of the shape's where that has as many.
    """
    drawn: list[np.ndarray] = []
    for rows in shapes.values():
        clips = filling.clips_of(tokens[rows[0]])
        order = random.permutation(np.asarray(rows))
        if filling.tokens is None and len(order) > clips:
            order = np.resize(order, -(-len(order) // clips) * clips)
        ends = list(range(clips, len(order), clips))
        if ends and 2 * (len(order) - ends[-1]) < clips:
            ends[-1] = (ends[-1] - clips + len(order) + 1) // 2
        drawn += np.split(order, ends)
    return [drawn[place] for place in random.permutation(len(drawn))]


def _packed(filling: Filling, tokens: Sequence[int], random: np.random.Generator) -> list[np.ndarray]:
    """Cuts the shuffled clips wherever the next one does not fit in the budget any more."""
    assert filling.tokens is not None
    order = random.permutation(len(tokens))
    ends = np.cumsum(np.asarray(tokens)[order])
    cuts, start = [], 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        start = int(np.searchsorted(ends, before + filling.tokens, side="right"))
        cuts.append(start)
    return np.split(order, cuts[:-1])


def _shared(filling: Filling, steps: Sequence[np.ndarray], tokens: Sequence[int], shapes: Shapes) -> Iterator[Step]:
    """Yields each step with its places dealt out: in turns for clips of one shape, else the largest first to whoever has the least."""
    kinds = {row: kind for kind, of_shape in enumerate(shapes.values()) for row in of_shape} if filling.packed else {}
    for rows in steps:
        if filling.packed:
            yield Step(rows, _dealt(rows.tolist(), tokens, kinds, filling.world_size))
        else:
            yield Step(rows, [np.arange(len(rows))[rank :: filling.world_size] for rank in range(filling.world_size)])


def _dealt(rows: list[int], tokens: Sequence[int], kinds: Mapping[int, int], world_size: int) -> list[np.ndarray]:
    """Answers each worker's places of packed clips, those of one shape side by side; `kinds`: which shape each row has."""
    held: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for place in sorted(range(len(rows)), key=lambda place: (-tokens[rows[place]], kinds[rows[place]], rows[place])):
        least = loads.index(min(loads))
        held[least].append(place)
        loads[least] += tokens[rows[place]]
    return [np.array(places, dtype=np.intp) for places in held]
