"""Embeddings as rows of a table in Arrow: the schema of the Parquet output and of BigQuery.

One row an image, in this order:

    uri                     string             absolute path or URL
    sha256                  string             of the file, 64 hexadecimal digits
    generation              string, or null    which version of the file it was
    width, height           int64              of the original, after its orientation
    format                  string             JPEG, PNG, ...
    embedding               list               the vector; left out of Parquet outputs, and empty
                                               in BigQuery, where no embedding was asked for
    model                   string             the handle
    model_fingerprint       string             the same vectors from the same pixels
    preprocess_fingerprint  string             the same pixels from the same file
    precision               string             float32, ...
    run_id                  string
    embedded_at             timestamp, UTC     in microseconds
    logits                  list               where logits were asked for
    classes                 list of struct     the likeliest classes, the likeliest first: index,
                                               probability and label (null without labels), where
                                               top classes were asked for
    ...                                        the carried columns
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from transforms.formats.carried_arrays import ARROW_TYPES, carried_arrays
from transforms.formats.embedding_table import Provenance
from transforms.formats.output_features import (
    CLASS_INDEX,
    CLASS_LABEL,
    CLASS_PROBABILITY,
    EMBEDDING,
    LOGITS,
    feature_widths,
    stack_vectors,
    values_of,
)
from transforms.records import CarriedColumn, Embedding, OutputLayout

Vectors = Literal["float32", "float64"]

#: Where the metadata of the schema tells, as JSON, what a reader needs besides the columns.
METADATA_KEY = b"embed_images"


@dataclass(frozen=True, slots=True)
class RowStamp:
    """What all rows of a run share."""

    provenance: Provenance
    run_id: str
    layout: OutputLayout
    columns: tuple[CarriedColumn, ...] = ()


def rows_schema(
    layout: OutputLayout, columns: Sequence[CarriedColumn] = (), *, vectors: Vectors
) -> pa.Schema:
    """Return the schema of the rows.

    Its metadata holds, under `METADATA_KEY`, the widths of the outputs and the names and kinds of
    the carried columns, as JSON: a file tells the same to its reader without any row in it.

    Args:
        layout: what is written of each vector.
        columns: what goes along from the input.
        vectors: float32: embedding and logits are lists of a fixed size, for Parquet outputs;
            float64: they are lists of any size, as BigQuery loads them into FLOAT64 REPEATED.
    """
    number = pa.float32() if vectors == "float32" else pa.float64()
    widths = feature_widths(layout)
    text, count = pa.string(), pa.int64()
    types = {"uri": text, "sha256": text, "generation": text}
    types |= {"width": count, "height": count, "format": text}
    if vectors == "float64" or EMBEDDING in widths:
        types["embedding"] = _list_type(number, widths.get(EMBEDDING, 0), vectors)
    types |= {"model": text, "model_fingerprint": text, "preprocess_fingerprint": text}
    types |= {"precision": text, "run_id": text, "embedded_at": pa.timestamp("us", tz="UTC")}
    if LOGITS in widths:
        types["logits"] = _list_type(number, widths[LOGITS], vectors)
    if CLASS_INDEX in widths:
        types["classes"] = pa.list_(
            pa.struct({"index": count, "probability": number, "label": text})
        )
    types |= {column.name: ARROW_TYPES[column.kind] for column in columns}
    told = {"version": 1, "widths": widths, "columns": [asdict(column) for column in columns]}
    return pa.schema(types.items(), metadata={METADATA_KEY: json.dumps(told).encode()})


def embedding_rows(
    embeddings: Sequence[Embedding], stamp: RowStamp, *, vectors: Vectors
) -> pa.Table:
    """Return one row for each embedding, in their order, with the schema of `rows_schema`.

    No Python code runs for a single float, so a few hundred embeddings at a time are cheapest.
    The floats are kept bit for bit.

    Args:
        embeddings: all as wide as the layout, their vectors float32.
        stamp: what they share.
        vectors: as for `rows_schema`.

    Raises:
        InvalidColumn: a carried value does not fit its column; the message names its URI.
        ValueError: a vector has another width than the layout.
        TypeError: a vector is not float32.

    Example:
        >>> rows = embedding_rows(batch, stamp, vectors="float32")  # doctest: +SKIP
        >>> rows.column_names[:3]  # doctest: +SKIP
        ['uri', 'sha256', 'generation']
    """
    schema = rows_schema(stamp.layout, stamp.columns, vectors=vectors)
    if not embeddings:
        return schema.empty_table()
    count = len(embeddings)
    infos = [embedding.info for embedding in embeddings]
    seconds = np.array([embedding.embedded_at for embedding in embeddings], np.float64)
    microseconds = np.rint(seconds * 1e6).astype(np.int64)
    shared = {
        "model": stamp.provenance.model_handle,
        "model_fingerprint": stamp.provenance.model_fingerprint,
        "preprocess_fingerprint": stamp.provenance.preprocess_fingerprint,
        "precision": stamp.provenance.precision,
        "run_id": stamp.run_id,
    }
    arrays = {
        "uri": pa.array([info.uri for info in infos], pa.string()),
        "sha256": pa.array([info.sha256 for info in infos], pa.string()),
        "generation": pa.array([info.origin.generation for info in infos], pa.string()),
        "width": pa.array([info.width for info in infos], pa.int64()),
        "height": pa.array([info.height for info in infos], pa.int64()),
        "format": pa.array([info.format for info in infos], pa.string()),
        **{name: pa.repeat(pa.scalar(text, pa.string()), count) for name, text in shared.items()},
        "embedded_at": pa.array(microseconds).cast(schema.field("embedded_at").type),
        **carried_arrays(embeddings, stamp.columns),
    }
    values = values_of(stack_vectors(embeddings, stamp.layout), stamp.layout)
    for name, feature in (("embedding", EMBEDDING), ("logits", LOGITS)):
        if name in schema.names:
            floats = values.get(feature, pa.array([], pa.float32()))
            arrays[name] = _lists(floats, schema.field(name).type, count)
    if "classes" in schema.names:
        arrays["classes"] = _classes(values, schema.field("classes").type, count)
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _list_type(number: pa.DataType, width: int, vectors: Vectors) -> pa.DataType:
    return pa.list_(number, width) if vectors == "float32" else pa.list_(number)


def _lists(values: pa.Array, kind: pa.DataType, count: int) -> pa.Array:
    """So many lists of equal length, which hold all of the values."""
    values = values.cast(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    ends = np.arange(count + 1, dtype=np.int64) * (len(values) // count)
    return pa.ListArray.from_arrays(pa.array(ends).cast(pa.int32()), values, type=kind)


def _classes(values: Mapping[str, pa.Array], kind: pa.DataType, count: int) -> pa.Array:
    indices = values[CLASS_INDEX]
    labels = values.get(CLASS_LABEL, pa.nulls(len(indices), pa.large_binary()))
    probability, label = kind.value_type.field("probability"), kind.value_type.field("label")
    structs = pa.StructArray.from_arrays(
        [indices, values[CLASS_PROBABILITY].cast(probability.type), labels.cast(label.type)],
        fields=list(kind.value_type),
    )
    return _lists(structs, kind, count)
