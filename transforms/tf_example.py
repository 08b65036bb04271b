"""Embeddings as serialized tf.Example protos: the writer and the reader of the format.

One example an image:

    image/uri               bytes, UTF-8       absolute path or URL
    image/sha256            bytes              of the file, 64 hexadecimal digits
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
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
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

from transforms import output_folder
from transforms.embedding_table import EmbeddingTable, Provenance, concatenate, output_bytes
from transforms.output_features import (
    EMBEDDING,
    OUTPUT_FEATURES,
    feature_widths,
    rows_of,
    values_of,
)
from transforms.records import Embedding, OutputLayout
from transforms.tfrecord_file import read_records

_URI = "image/uri"
_SHA256 = "image/sha256"
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


# Large enough that the decoder's call costs nothing, small enough to stay in a few megabytes.
_RECORDS_PER_DECODE = 1024

# Memory in pieces of this size goes back to the operating system as soon as it is free; from
# 32 MB on malloc maps each piece by itself. See mallopt(3), M_MMAP_THRESHOLD.
_BLOCK_BYTES = 64 << 20


def encode_embeddings(
    embeddings: Sequence[Embedding],
    provenance: Provenance,
    layout: OutputLayout | None = None,
) -> list[bytes]:
    """Serialize embeddings as tf.Example protos, in their order.

    All go through one call of tfx-bsl's encoder, so a few hundred at a time are cheapest.
    The floats are kept bit for bit.

    Args:
        embeddings: all of one width, their vectors float32.
        provenance: what made them.
        layout: what is written of each vector; None: all of it is the embedding.

    Raises:
        ValueError: the vectors differ in width, or have another one than the layout.
        TypeError: a vector is not float32.
    """
    if not embeddings:
        return []
    count = len(embeddings)
    width = len(embeddings[0].vector)
    # Arrow's allocator keeps its pages from call to call, malloc gives these back each time.
    buffer = pa.allocate_buffer(count * width * 4)
    vectors = np.frombuffer(buffer, np.float32).reshape(count, width)
    np.stack([embedding.vector for embedding in embeddings], out=vectors, casting="no")
    layout = layout or OutputLayout(embedding_width=width)
    if layout.width != width:
        raise ValueError(f"the vectors have {width} values, but the layout has {layout.width}")
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
    columns = {
        feature: pa.ListArray.from_arrays(one_each, values) for feature, values in scalars.items()
    }
    for feature, values in values_of(vectors, layout).items():
        ends = np.arange(0, len(values) + 1, len(values) // count, dtype=np.int64)
        columns[feature] = pa.LargeListArray.from_arrays(pa.array(ends), values)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    examples: list[bytes] = RecordBatchToExamplesEncoder().encode(batch)
    return examples


def embeddings_schema(layout: OutputLayout) -> schema_pb2.Schema:
    """The TensorFlow Metadata schema of the examples, for TFX and for `read_embeddings`.

    Every feature is present once in every example; those that are vectors have a shape.

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
    return schema


def embeddings_schema_text(layout: OutputLayout) -> str:
    """The content of `schema.pbtxt`: `embeddings_schema` in protobuf's text format."""
    text: str = text_format.MessageToString(embeddings_schema(layout))
    return text


def read_embeddings(
    folder: str | os.PathLike[str], *, allow_incomplete: bool = False
) -> EmbeddingTable:
    """Read all embeddings of an output folder, ordered by shard and by place in the shard.

    The vectors are in memory once, plus some 250 MB while they are read.

    Args:
        folder: where a run wrote its output: a local path, or a URL such as gs://bucket/out.
        allow_incomplete: read what is there, also where the run has not finished.

    Raises:
        FileNotFoundError: the run is not complete, or a file of it is missing.
        ValueError: a shard is damaged, or the rows come from different models or
            preprocessing, or hold other outputs than the schema says; the message names the file.

    Example:
        >>> table = read_embeddings("out")  # doctest: +SKIP
        >>> table.uris[0], table.vectors.shape  # doctest: +SKIP
    """
    folder = os.fspath(folder)
    shards = output_folder.embedding_shards(folder, allow_incomplete=allow_incomplete)
    schema, widths = _read_schema(folder)
    decoder = ExamplesToRecordBatchDecoder(schema.SerializeToString())
    blocks: list[EmbeddingTable] = []
    tables: list[EmbeddingTable] = []
    for table in _read_tables(shards, decoder, widths):
        tables.append(table)
        if sum(map(output_bytes, tables)) >= _BLOCK_BYTES:
            blocks.append(concatenate(tables, widths))
    blocks.append(concatenate(tables, widths))
    return concatenate(blocks, widths)


def _batches(records: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(records, size)):
        yield batch


def _read_tables(
    shards: Sequence[str], decoder: ExamplesToRecordBatchDecoder, widths: Mapping[str, int]
) -> Iterator[EmbeddingTable]:
    provenance: Provenance | None = None
    for path in shards:
        try:
            for examples in _batches(read_records(path), _RECORDS_PER_DECODE):
                table = _table(decoder.DecodeBatch(examples), widths, provenance)
                provenance = table.provenance
                yield table
        # tfx-bsl raises RuntimeError for a record that is no tf.Example.
        except (ValueError, RuntimeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"cannot read {path}: {error}") from error


def _read_schema(folder: str) -> tuple[schema_pb2.Schema, dict[str, int]]:
    """A schema to decode with, and how many values each row has of the output features.

    It also names the features that the folder's own schema lacks, so that a row with one of
    them is noticed.
    """
    path = output_folder.schema_path(folder)
    with output_folder.open_file(path) as file:
        content = file.read()
    try:
        schema = text_format.Parse(content, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    widths = {
        feature.name: feature.shape.dim[0].size if len(feature.shape.dim) == 1 else 0
        for feature in schema.feature
        if feature.name in OUTPUT_FEATURES
    }
    if not widths or not all(widths.values()):
        named = ", ".join(map(repr, widths)) or "any output of a model"
        raise ValueError(f"cannot read {path}: it gives no width for {named}")
    for name, output in OUTPUT_FEATURES.items():
        if name not in widths:
            schema.feature.add(name=name, type=output.kind)
    return schema, widths


def _table(
    batch: pa.RecordBatch, widths: Mapping[str, int], earlier: Provenance | None
) -> EmbeddingTable:
    for feature in OUTPUT_FEATURES:
        if feature not in widths and batch.column(feature).null_count < len(batch):
            raise ValueError(
                f"there are records with {feature!r}, of which the schema says nothing"
            )
    columns = {"vectors": np.empty((len(batch), 0), np.float32)} | {
        OUTPUT_FEATURES[feature].column: rows_of(_values(batch, feature, width), width)
        for feature, width in widths.items()
    }
    return EmbeddingTable(
        uris=_texts(_values(batch, _URI, 1)),
        sha256=_texts(_values(batch, _SHA256, 1)),
        formats=_texts(_values(batch, _FORMAT, 1)),
        heights=_values(batch, _HEIGHT, 1).to_numpy(),
        widths=_values(batch, _WIDTH, 1).to_numpy(),
        provenance=_provenance(batch, earlier),
        **columns,
    )


def _provenance(batch: pa.RecordBatch, earlier: Provenance | None) -> Provenance:
    """The one provenance of all rows, which is also that of the earlier rows."""
    made_by = []
    for place, feature in enumerate(_PROVENANCE):
        texts = _texts(_values(batch, feature, 1).unique())
        if earlier is not None:
            texts = list(dict.fromkeys([astuple(earlier)[place], *texts]))
        if len(texts) > 1:
            raise ValueError(
                "the folder mixes the rows of two runs, whose vectors cannot be compared: "
                f"{feature} is {texts[0]!r} and {texts[1]!r}"
            )
        made_by.append(texts[0])
    return Provenance(*made_by)


def _values(batch: pa.RecordBatch, feature: str, count: int) -> pa.Array:
    """All values of a feature in one array, after a check that every row has `count`."""
    if feature not in batch.schema.names:
        raise ValueError(f"the schema has no feature {feature!r}")
    column = batch.column(feature)
    if column.null_count or pc.any(pc.not_equal(column.value_lengths(), count)).as_py():
        raise ValueError(f"not every record has {count} values of the feature {feature!r}")
    return column.flatten()


def _texts(values: pa.Array) -> list[str]:
    texts: list[str] = values.cast(pa.large_string()).to_pylist()
    return texts
