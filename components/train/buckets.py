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
    """The rows of a step's clips, and for each worker the places among them of what it holds."""

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


def steps_of(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int, first: int) -> Iterator[Step]:
    """Yields the steps from a first one on, epoch after epoch; in each, every clip is seen.

    Args:
        tokens: of each row.
        shapes: the rows of each shape.
    """
    for epoch in count():
        random = np.random.default_rng([seed, epoch])
        steps = _packed(filling, tokens, random) if filling.packed else _by_shape(filling, tokens, shapes, random)
        yield from (_shared(filling, rows, tokens) for rows in steps[first:])
        first = max(0, first - len(steps))


def steps_an_epoch(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int) -> int:
    """Answers how many steps the first epoch takes; packed, others take about as many."""
    if filling.packed:
        return len(_packed(filling, tokens, np.random.default_rng([seed, 0])))
    return sum(-(-len(rows) // filling.clips_of(tokens[rows[0]])) for rows in shapes.values())


def unfilled(filling: Filling, tokens: Sequence[int], shapes: Shapes, seed: int) -> float:
    """Answers which share of the budget the first epoch leaves empty; 0 where there is none. Padding there is none of either way."""
    if filling.tokens is None:
        return 0.0
    steps = steps_an_epoch(filling, tokens, shapes, seed)
    if filling.packed:
        return 1.0 - sum(tokens) / (steps * filling.tokens)
    held = sum(-(-len(rows) // (clips := filling.clips_of(tokens[rows[0]]))) * clips * tokens[rows[0]] for rows in shapes.values())
    return 1.0 - held / (steps * filling.tokens)


def _by_shape(filling: Filling, tokens: Sequence[int], shapes: Shapes, random: np.random.Generator) -> list[np.ndarray]:
    """Shuffles the clips of each shape and the order of batches; a shape's last one is filled up from the start of its clips."""
    drawn: list[np.ndarray] = []
    for rows in shapes.values():
        clips = filling.clips_of(tokens[rows[0]])
        batches = -(-len(rows) // clips)
        drawn += np.split(np.resize(random.permutation(np.asarray(rows)), batches * clips), batches)
    return [drawn[place] for place in random.permutation(len(drawn))]


def _packed(filling: Filling, tokens: Sequence[int], random: np.random.Generator) -> list[np.ndarray]:
    """Cuts the shuffled clips wherever the next one does not fit in the budget any more; the last one is filled up if it has too few."""
    assert filling.tokens is not None
    order = random.permutation(len(tokens))
    ends = np.cumsum(np.asarray(tokens)[order])
    cuts, start = [], 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        start = int(np.searchsorted(ends, before + filling.tokens, side="right"))
        cuts.append(start)
    steps = np.split(order, cuts[:-1])
    if len(steps[-1]) < filling.world_size:
        steps[-1] = np.resize(np.concatenate([steps[-1], order]), filling.world_size)
    return steps


def _shared(filling: Filling, rows: np.ndarray, tokens: Sequence[int]) -> Step:
    """Deals the places of a step out: in turns for clips of one shape, else the largest first to whoever has the least."""
    if not filling.packed:
        return Step(rows, [np.arange(len(rows))[rank :: filling.world_size] for rank in range(filling.world_size)])
    each = [tokens[int(row)] for row in rows]
    held: list[list[int]] = [[] for _ in range(filling.world_size)]
    loads = [0] * filling.world_size
    for place in sorted(range(len(rows)), key=lambda place: (-each[place], int(rows[place]))):
        least = loads.index(min(loads))
        held[least].append(place)
        loads[least] += each[place]
    return Step(rows, [np.array(places) for places in held])
