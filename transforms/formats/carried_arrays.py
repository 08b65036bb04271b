"""The carried columns of a batch of images as Arrow arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from transforms.errors import InvalidColumn
from transforms.records import CarriedColumn, CarriedValue, ColumnKind, Embedding

#: What each kind of column is in Arrow.
ARROW_TYPES: Mapping[ColumnKind, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}

# Arrow alone would make 1 of 1.5 and "x" of b"x".
_PYTHON_TYPES: Mapping[ColumnKind, frozenset[type]] = {
    "string": frozenset({str, type(None)}),
    "int64": frozenset({int, type(None)}),
    "float64": frozenset({float, int, type(None)}),
    "bool": frozenset({bool, type(None)}),
}


def carried_arrays(
    embeddings: Sequence[Embedding], columns: Sequence[CarriedColumn]
) -> dict[str, pa.Array]:
    """Return one array for each carried column, in the type it was declared with.

    An image that came from an input without columns has null in all of them.

    Raises:
        InvalidColumn: an image has more or fewer values than there are columns, or one that is
            not of the declared type; the message names its URI.
    """
    count = len(columns)
    nulls = (None,) * count
    rows = [embedding.info.origin.carried or nulls for embedding in embeddings]
    for embedding, row in zip(embeddings, rows, strict=True):
        if len(row) != count:
            raise InvalidColumn(
                f"{embedding.info.uri} has {len(row)} carried values, but the job has {count} "
                "carried columns; name all columns of its input in input.carry"
            )
    arrays = {}
    for place, column in enumerate(columns):
        values = [row[place] for row in rows]
        array = _array(values, column)
        if array is None:
            culprit = next(at for at, value in enumerate(values) if _array([value], column) is None)
            raise InvalidColumn(
                f"{embeddings[culprit].info.uri} has {_shortened(values[culprit])} in the carried "
                f"column {column.name!r}, which is declared as {column.kind}; mend it in the input"
            )
        arrays[column.name] = array
    return arrays


def _array(values: Sequence[CarriedValue], column: CarriedColumn) -> pa.Array | None:
    """The values in the type of the column, or None where one of them does not fit it."""
    if not set(map(type, values)) <= _PYTHON_TYPES[column.kind]:
        return None
    try:
        return pa.array(values, ARROW_TYPES[column.kind])
    # pa.ArrowInvalid and UnicodeEncodeError are ValueErrors: an int that no float64 is equal to,
    # and half a character. An int may also be too large for 64 bits.
    except (ValueError, OverflowError):
        return None


def _shortened(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
