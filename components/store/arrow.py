"""Plain Python values to Arrow columns and back: blobs, and float16 arrays with their shapes beside them."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SHAPES = {"latents": "latents_shape", "text_embeds": "text_shape"}


def column(values: Any, field: "pa.Field") -> "pa.Array | pa.ChunkedArray":
    """Answers values as a column of a field's type; a value for float16 lists is an array of any shape or None."""
    import lance
    import pyarrow as pa

    if is_blob(field):
        return lance.blob_array(plain(values))
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(field.type)
    if pa.types.is_list(field.type) and field.type.value_type == pa.float16():
        return pa.array([_float16(value) for value in values], type=field.type)
    return pa.array(values, type=field.type)


def arrays(batch: "pa.RecordBatch", key: str, name: str) -> "Iterator[tuple[str, np.ndarray]]":
    """Answers (key, array) of the rows of a batch that have one, as views of the batch's memory."""
    flat = batch[name].values.to_numpy()
    bounds = batch[name].offsets.to_numpy()
    shapes = batch[SHAPES[name]].to_pylist()
    valid = batch[name].is_valid().to_pylist()
    for row, row_key in enumerate(batch[key].to_pylist()):
        if valid[row]:
            yield row_key, flat[bounds[row] : bounds[row + 1]].reshape(shapes[row])


def plain(values: Any) -> list[Any]:
    """Answers a column as a list."""
    return values if isinstance(values, list) else values.to_pylist()


def is_blob(field: "pa.Field") -> bool:
    """Answers whether a field holds Lance blobs."""
    return getattr(field.type, "extension_name", "") == _blob_name()


@functools.cache
def _blob_name() -> str:
    import lance

    return str(lance.blob_field("any").type.extension_name)


def _float16(value: Any) -> Any:
    import numpy as np

    return None if value is None else np.asarray(value, dtype=np.float16).reshape(-1)
