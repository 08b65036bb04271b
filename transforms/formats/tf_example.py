"""Embeddings as serialized tf.Example protos: the writer and the reader of the format.

One example an image:

    image/uri               bytes, UTF-8       absolute path or URL
    image/sha256            bytes              of the file, 64 hexadecimal digits
    image/generation        bytes              which version of the file it was; no value where
                                               nothing told
    image/format            bytes              JPEG, PNG, ...
    image/height            int64              of the original, after its orientation
    image/width             int64              of the original, after its orientation
    embedding               float [width]      the vector, where an embedding was asked for
    logits                  float [classes]    where logits were asked for
    classes/index           int64 [k]          the likeliest classes, the likeliest first,
    classes/probability     float [k]          and their probabilities, where top classes were
    classes/label           bytes [k]          asked for; their names, where there are labels
    model/handle            bytes
    model/fingerprint       bytes              the same vectors from the same pixels
    model/precision         bytes              float32, ...
    preprocess/fingerprint  bytes              the same pixels from the same file
    carried/<name>          bytes, int64       a column of the input, a bool as 0 or 1, a float64
                            or float           rounded to float; no value where it is null
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import (
    ExamplesToRecordBatchDecoder,
    RecordBatchToExamplesEncoder,
)

from transforms.formats.carried_arrays import carried_arrays
from transforms.formats.embedding_table import EmbeddingTable, Provenance, collect, one_provenance
from transforms.formats.output_features import (
    EMBEDDING,
    OUTPUT_FEATURES,
    feature_widths,
    rows_of,
    stack_vectors,
    values_of,
)
from transforms.formats.tfrecord_file import read_records
from transforms.records import (
    CarriedColumn,
    CarriedValue,
    ColumnKind,
    Embedding,
    OutputLayout,
)
from transforms.storage.output_storage import open_file

_URI = "image/uri"
_SHA256 = "image/sha256"
_GENERATION = "image/generation"
_FORMAT = "image/format"
_HEIGHT = "image/height"
_WIDTH = "image/width"
#: In the order of the fields of Provenance.
_PROVENANCE = (
    "model/handle",
    "model/fingerprint",
    "preprocess/fingerprint",
    "model/precision",
)
_CARRIED = "carried/"
#: What each kind of carried column is in the schema and in the arrays that are encoded.
_CARRIED_TYPES: Mapping[ColumnKind, tuple[int, pa.DataType]] = {
    "string": (schema_pb2.BYTES, pa.binary()),
    "int64": (schema_pb2.INT, pa.int64()),
    "float64": (schema_pb2.FLOAT, pa.float32()),
    "bool": (schema_pb2.INT, pa.int64()),
}

# Large enough that the decoder's call costs nothing, small enough to stay in a few megabytes.
_RECORDS_PER_DECODE = 1024


def encode_embeddings(
    embeddings: Sequence[Embedding],
    provenance: Provenance,
    layout: OutputLayout | None = None,
    columns: Sequence[CarriedColumn] = (),
) -> list[bytes]:
    """Serialize embeddings as tf.Example protos, in their order.

    All go through one call of tfx-bsl's encoder, so a few hundred at a time are cheapest.
    The floats are kept bit for bit.

    Args:
        embeddings: all of one width, their vectors float32.
        provenance: what made them.
        layout: what is written of each vector; None: all of it is the embedding.
        columns: what is carried along from the input.

    Raises:
        ValueError: the vectors differ in width, or have another one than the layout.
        InvalidColumn: a carried value does not fit its column; the message names its URI.
        TypeError: a vector is not float32.
    """
    if not embeddings:
        return []
    count = len(embeddings)
    layout = layout or OutputLayout(embedding_width=len(embeddings[0].vector))
    vectors = stack_vectors(embeddings, layout)
    infos = [embedding.info for embedding in embeddings]
    one_each = pa.array(np.arange(count + 1, dtype=np.int32))
    scalars = {
        _URI: pa.array([info.uri for info in infos], pa.binary()),
        _SHA256: pa.array([info.sha256 for info in infos], pa.binary()),
        _FORMAT: pa.array([info.format for info in infos], pa.binary()),
        _HEIGHT: pa.array([info.height for info in infos], pa.int64()),
        _WIDTH: pa.array([info.width for info in infos], pa.int64()),
    }
    for feature, value in zip(_PROVENANCE, astuple(provenance), strict=True):
        scalars[feature] = pa.repeat(pa.scalar(value.encode(), pa.binary()), count)
    features = {
        feature: pa.ListArray.from_arrays(one_each, values) for feature, values in scalars.items()
    }
    optional = {}
    generations = pa.array([info.origin.generation for info in infos], pa.binary())
    # Where all are null the feature can be left out, and such an example is that of version 1.
    if generations.null_count < count:
        optional[_GENERATION] = generations
    arrays = carried_arrays(embeddings, columns)
    for column in columns:
        _, kind = _CARRIED_TYPES[column.kind]
        optional[_CARRIED + column.name] = arrays[column.name].cast(kind)
    for feature, values in optional.items():
        # Null, not an empty list: with that TensorFlow would not put in the default value.
        mask = values.is_null()
        features[feature] = pa.ListArray.from_arrays(one_each, values, mask=mask)
    for feature, values in values_of(vectors, layout).items():
        ends = np.arange(0, len(values) + 1, len(values) // count, dtype=np.int64)
        features[feature] = pa.LargeListArray.from_arrays(pa.array(ends), values)
    batch = pa.RecordBatch.from_arrays(list(features.values()), names=list(features))
    examples: list[bytes] = RecordBatchToExamplesEncoder().encode(batch)
    return examples


def embeddings_schema(
    layout: OutputLayout, columns: Sequence[CarriedColumn] = ()
) -> schema_pb2.Schema:
    """The TensorFlow Metadata schema of the examples, for TFX and for `read_embeddings`.

    Every feature is present once in every example; those that are vectors have a shape. But the
    generation and the carried columns may be without a value, and have no shape.

    Source: https://github.com/tensorflow/metadata/blob/master/tensorflow_metadata/proto/v0/schema.proto
    """
    types = {
        _URI: schema_pb2.BYTES,
        _SHA256: schema_pb2.BYTES,
        _FORMAT: schema_pb2.BYTES,
        _HEIGHT: schema_pb2.INT,
        _WIDTH: schema_pb2.INT,
        EMBEDDING: schema_pb2.FLOAT,
        **dict.fromkeys(_PROVENANCE, schema_pb2.BYTES),
        **{feature: output.kind for feature, output in OUTPUT_FEATURES.items()},
    }
    widths = feature_widths(layout)
    schema = schema_pb2.Schema()
    for name, kind in types.items():
        if name in OUTPUT_FEATURES and name not in widths:
            continue
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
        feature.shape.SetInParent()
        if name in widths:
            feature.shape.dim.add(size=widths[name])
    optional: dict[str, ColumnKind] = {_GENERATION: "string"}
    optional |= {_CARRIED + one.name: one.kind for one in columns}
    for name, kind in optional.items():
        feature = schema.feature.add(name=name, type=_CARRIED_TYPES[kind][0])
        feature.presence.min_fraction = 0.0
        feature.value_count.max = 1
        if kind == "bool":
            feature.bool_domain.SetInParent()
    return schema


def embeddings_schema_text(layout: OutputLayout, columns: Sequence[CarriedColumn] = ()) -> str:
    """The content of `schema.pbtxt`: `embeddings_schema` in protobuf's text format."""
    text: str = text_format.MessageToString(embeddings_schema(layout, columns))
    return text


def read_tfrecord_shards(paths: Sequence[str], schema_path: str) -> EmbeddingTable:
    """Read all embeddings of some TFRecord files, ordered by file and by place in the file.

    The vectors are in memory once, besides the texts and some 300 MB while they are read.

    Args:
        paths: local paths, or URLs such as gs://bucket/out/embeddings-00000-of-00001.tfrecord.
        schema_path: of their `schema.pbtxt`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as of `read_embeddings`.
    """
    schema = _read_schema(schema_path)
    return collect(_read_tables(paths, schema), schema.widths, schema.carried)


@dataclass(frozen=True, slots=True)
class _Schema:
    decoder: ExamplesToRecordBatchDecoder
    widths: Mapping[str, int]
    """How many values each row has of the output features."""
    carried: Mapping[str, bool]
    """The names of the carried columns, and which of them are bools."""


def _batches(records: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(records, size)):
        yield batch


def _read_tables(shards: Sequence[str], schema: _Schema) -> Iterator[EmbeddingTable]:
    provenance: Provenance | None = None
    for path in shards:
        try:
            for examples in _batches(read_records(path), _RECORDS_PER_DECODE):
                table = _table(schema.decoder.DecodeBatch(examples), schema, provenance)
                provenance = table.provenance
                yield table
        # tfx-bsl raises RuntimeError for a record that is no tf.Example.
        except (ValueError, RuntimeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"cannot read {path}: {error}") from error


def _read_schema(path: str) -> _Schema:
    """What the examples are decoded with.

    That is also the features that the file lacks, so that a row with one of them is noticed.
    """
    with open_file(path) as file:
        content = file.read()
    try:
        schema = text_format.Parse(content, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    features = {feature.name: feature for feature in schema.feature}
    widths = {
        name: feature.shape.dim[0].size if len(feature.shape.dim) == 1 else 0
        for name, feature in features.items()
        if name in OUTPUT_FEATURES
    }
    if not widths or not all(widths.values()):
        named = ", ".join(map(repr, widths)) or "any output of a model"
        raise ValueError(f"cannot read {path}: it gives no width for {named}")
    for name, output in OUTPUT_FEATURES.items():
        if name not in widths:
            schema.feature.add(name=name, type=output.kind)
    # Version 1 had none.
    if _GENERATION not in features:
        schema.feature.add(name=_GENERATION, type=schema_pb2.BYTES)
    carried = {
        name.removeprefix(_CARRIED): feature.HasField("bool_domain")
        for name, feature in features.items()
        if name.startswith(_CARRIED)
    }
    return _Schema(ExamplesToRecordBatchDecoder(schema.SerializeToString()), widths, carried)


def _table(batch: pa.RecordBatch, schema: _Schema, earlier: Provenance | None) -> EmbeddingTable:
    for feature in OUTPUT_FEATURES:
        if feature not in schema.widths and batch.column(feature).null_count < len(batch):
            raise ValueError(
                f"there are records with {feature!r}, of which the schema says nothing"
            )
    columns = {"vectors": np.empty((len(batch), 0), np.float32)} | {
        # A copy, because the decoder's buffers are up to twice as large as their content.
        OUTPUT_FEATURES[feature].column: rows_of(_values(batch, feature, width), width).copy()
        for feature, width in schema.widths.items()
    }
    made_by = (_texts(_values(batch, feature, 1).unique()) for feature in _PROVENANCE)
    generations: list[str | None] = _one_or_null(batch, _GENERATION).cast(pa.string()).to_pylist()
    return EmbeddingTable(
        uris=_texts(_values(batch, _URI, 1)),
        sha256=_texts(_values(batch, _SHA256, 1)),
        generations=generations,
        formats=_texts(_values(batch, _FORMAT, 1)),
        heights=_values(batch, _HEIGHT, 1).to_numpy(),
        widths=_values(batch, _WIDTH, 1).to_numpy(),
        carried={
            name: _carried(batch, name, is_bool=is_bool) for name, is_bool in schema.carried.items()
        },
        provenance=one_provenance(made_by, earlier),
        **columns,
    )


def _values(batch: pa.RecordBatch, feature: str, count: int) -> pa.Array:
    """All values of a feature in one array, after a check that every row has `count`."""
    if feature not in batch.schema.names:
        raise ValueError(f"the schema has no feature {feature!r}")
    column = batch.column(feature)
    if column.null_count or pc.any(pc.not_equal(column.value_lengths(), count)).as_py():
        raise ValueError(f"not every record has {count} values of the feature {feature!r}")
    return column.flatten()


def _one_or_null(batch: pa.RecordBatch, feature: str) -> pa.Array:
    """The value of a feature in each row, null where the row has none."""
    column = batch.column(feature)
    if pc.any(pc.greater(column.value_lengths(), 1)).as_py():
        raise ValueError(f"there are records with several values of the feature {feature!r}")
    places = np.full(len(column), -1)
    rows_with_one = pc.list_parent_indices(column).to_numpy()
    places[rows_with_one] = np.arange(len(rows_with_one))
    return column.flatten().take(pa.array(places, mask=places < 0))


def _carried(batch: pa.RecordBatch, name: str, *, is_bool: bool) -> list[CarriedValue]:
    values = _one_or_null(batch, _CARRIED + name)
    if is_bool:
        values = values.cast(pa.bool_())
    elif pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
        values = values.cast(pa.large_string())
    carried: list[CarriedValue] = values.to_pylist()
    return carried


def _texts(values: pa.Array) -> list[str]:
    texts: list[str] = values.cast(pa.large_string()).to_pylist()
    return texts
