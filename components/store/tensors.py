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
        dataset: at a version that stays: one that is tagged, where others write.
        key: the column of the rows' names.
        column: `latents` or `text_embeds`.
        keys: of the rows.
        places: offsets of the rows in the dataset.
        shapes: of their arrays.
    """

    def __init__(
        self, dataset: "lance.LanceDataset", key: str, column: str, keys: Sequence[str], places: Sequence[int], shapes: Sequence[Shape]
    ) -> None:
        self._dataset, self._key, self._column = dataset, key, column
        self._keys, self._places, self.shapes = keys, places, shapes

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> "np.ndarray": ...

    @overload
    def __getitem__(self, row: slice) -> "list[np.ndarray]": ...

    def __getitem__(self, row: int | slice) -> "np.ndarray | list[np.ndarray]":
        return self.read(range(len(self))[row]) if isinstance(row, slice) else self.read([row])[0]

    def read(self, rows: Sequence[int]) -> "list[np.ndarray]":
        """Reads the arrays of some of the rows, in their order, in one go.

        Raises:
            LookupError: other rows lie there.
        """
        found: dict[str, np.ndarray] = {}
        places = sorted({self._places[row] for row in rows})
        for batch in self._dataset.take(places, columns=[self._key, self._column, SHAPES[self._column]]).to_batches():
            found.update(arrays(batch, self._key, self._column))
        lost = next((self._keys[row] for row in rows if self._keys[row] not in found), None)
        if lost is not None:
            raise LookupError(f"`{lost}` has no `{self._column}` where it lay; hint: run again")
        return [found[self._keys[row]] for row in rows]


def shapes_of(held: "Sequence[np.ndarray]") -> Sequence[Shape]:
    """Answers the shape of each array; none of those that are stored is read."""
    return held.shapes if isinstance(held, StoredArrays) else [array.shape for array in held]


def arrays_of(held: "Sequence[np.ndarray]", rows: Sequence[int]) -> "list[np.ndarray]":
    """Answers the arrays of some rows."""
    return held.read(rows) if isinstance(held, StoredArrays) else [held[row] for row in rows]


def bytes_of(shapes: Iterable[Sequence[int]]) -> int:
    """Answers what arrays of these shapes take."""
    return HALF * sum(map(prod, shapes))
