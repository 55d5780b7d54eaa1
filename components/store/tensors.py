"""Float16 arrays of a table's rows that are read when they are asked for, where all of them are too many to hold."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, overload

from components.store.arrow import SHAPES, arrays

if TYPE_CHECKING:
    import lance
    import numpy as np

HALF = 2  # bytes of a number
IN_MEMORY = 4 * 2**30  # bytes of latents and text embeddings that a worker of a training holds; of more, each step reads its own
Shape = tuple[int, ...]


class StoredArrays(Sequence["np.ndarray"]):
    """One array of each of many rows, at the version of the table that it was made of.

    Args:
        dataset: at a version that stays.
        column: `latents` or `text_embeds`.
        places: offsets of the rows in the dataset.
        shapes: of their arrays.
    """

    def __init__(self, dataset: "lance.LanceDataset", column: str, places: Sequence[int], shapes: Sequence[Shape]) -> None:
        self._dataset, self._column, self._places, self.shapes = dataset, column, places, shapes

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> "np.ndarray": ...

    @overload
    def __getitem__(self, row: slice) -> "list[np.ndarray]": ...

    def __getitem__(self, row: int | slice) -> "np.ndarray | list[np.ndarray]":
        return self.read(range(len(self))[row]) if isinstance(row, slice) else self.read([row])[0]

    def read(self, rows: Sequence[int]) -> "list[np.ndarray]":
        """Reads the arrays of some of the rows, in their order, in one go."""
        places = [self._places[row] for row in rows]
        wanted = sorted(set(places))
        found: dict[int, np.ndarray] = {}
        for batch in self._dataset.take(wanted, columns=[self._column, SHAPES[self._column]]).to_batches():
            found.update(arrays(batch, wanted[len(found) : len(found) + batch.num_rows], self._column))
        return [found[place] for place in places]


def shapes_of(held: "Sequence[np.ndarray]") -> Sequence[Shape]:
    """Answers the shape of each array; none of those that are stored is read."""
    return held.shapes if isinstance(held, StoredArrays) else [array.shape for array in held]


def arrays_of(held: "Sequence[np.ndarray]", rows: Sequence[int]) -> "list[np.ndarray]":
    """Answers the arrays of some rows."""
    return held.read(rows) if isinstance(held, StoredArrays) else [held[row] for row in rows]


def bytes_of(shapes: Iterable[Sequence[int]]) -> int:
    """Answers what arrays of these shapes take."""
    return HALF * sum(map(prod, shapes))
