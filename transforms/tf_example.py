"""Embeddings as serialized tf.Example protos: the writer and the reader of the format.

One example an image:

    image/uri               bytes, UTF-8       absolute path or URL
    image/sha256            bytes              of the file, 64 hexadecimal digits
    image/format            bytes              JPEG, PNG, ...
    image/height            int64              of the original, after its orientation
    image/width             int64              of the original, after its orientation
    embedding               float [width]      the vector
    model/handle            bytes
    model/fingerprint       bytes              the same vectors from the same pixels
    model/precision         bytes              float32, ...
    preprocess/fingerprint  bytes              the same pixels from the same file
"""

import gzip
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import (
    ExamplesToRecordBatchDecoder,
    RecordBatchToExamplesEncoder,
)

from transforms import output_folder
from transforms.records import Embedding

_URI = "image/uri"
_SHA256 = "image/sha256"
_FORMAT = "image/format"
_HEIGHT = "image/height"
_WIDTH = "image/width"
_EMBEDDING = "embedding"
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


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the vectors: two vectors are comparable where all of this is the same."""

    model_handle: str
    model_fingerprint: str
    preprocess_fingerprint: str
    precision: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTable:
    """The embeddings of one output folder, column by column; row i is one image."""

    uris: list[str]
    vectors: npt.NDArray[np.float32]
    """`float32 [n, width]`; `[0, width]` where no image was embedded."""
    sha256: list[str]
    formats: list[str]
    heights: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    widths: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    provenance: Provenance | None
    """None where no image was embedded."""

    def __len__(self) -> int:
        return len(self.uris)


def encode_embeddings(embeddings: Sequence[Embedding], provenance: Provenance) -> list[bytes]:
    """Serialize embeddings as tf.Example protos, in their order.

    All go through one call of tfx-bsl's encoder, so a few hundred at a time are cheapest.
    The floats are kept bit for bit.

    Args:
        embeddings: all of one width, their vectors float32.
        provenance: what made them.

    Raises:
        ValueError: the vectors differ in width.
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
    columns[_EMBEDDING] = pa.LargeListArray.from_arrays(
        pa.array(np.arange(0, vectors.size + 1, width, dtype=np.int64)),
        pa.array(vectors.reshape(-1)),
    )
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    examples: list[bytes] = RecordBatchToExamplesEncoder().encode(batch)
    return examples


def embeddings_schema(width: int) -> schema_pb2.Schema:
    """The TensorFlow Metadata schema of the examples, for TFX and for `read_embeddings`.

    Every feature is present once in every example; `embedding` has the shape `[width]`.

    Source: https://github.com/tensorflow/metadata/blob/master/tensorflow_metadata/proto/v0/schema.proto
    """
    types = {
        _URI: schema_pb2.BYTES,
        _SHA256: schema_pb2.BYTES,
        _FORMAT: schema_pb2.BYTES,
        _HEIGHT: schema_pb2.INT,
        _WIDTH: schema_pb2.INT,
        _EMBEDDING: schema_pb2.FLOAT,
        **dict.fromkeys(_PROVENANCE, schema_pb2.BYTES),
    }
    schema = schema_pb2.Schema()
    for name, kind in types.items():
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
        feature.shape.SetInParent()
        if name == _EMBEDDING:
            feature.shape.dim.add(size=width)
    return schema


def embeddings_schema_text(width: int) -> str:
    """The content of `schema.pbtxt`: `embeddings_schema` in protobuf's text format."""
    text: str = text_format.MessageToString(embeddings_schema(width))
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
            preprocessing; the message names the file.

    Example:
        >>> table = read_embeddings("out")  # doctest: +SKIP
        >>> table.uris[0], table.vectors.shape  # doctest: +SKIP
    """
    folder = os.fspath(folder)
    shards = output_folder.embedding_shards(folder, allow_incomplete=allow_incomplete)
    schema, width = _read_schema(folder)
    decoder = ExamplesToRecordBatchDecoder(schema.SerializeToString())
    blocks: list[EmbeddingTable] = []
    tables: list[EmbeddingTable] = []
    for table in _read_tables(shards, decoder, width):
        tables.append(table)
        if sum(table.vectors.nbytes for table in tables) >= _BLOCK_BYTES:
            blocks.append(_concatenate(tables, width))
    blocks.append(_concatenate(tables, width))
    return _concatenate(blocks, width)


def read_records(path: str) -> Iterator[bytes]:
    """The records of one TFRecord file, gunzipped where its name ends with .gz.

    Reads without TensorFlow, which is slow to import and finds its own way to buckets.
    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

    Raises:
        ValueError: a record is cut off or does not match its checksum.
        EOFError, gzip.BadGzipFile, zlib.error: the compressed file is damaged.
    """
    with output_folder.open_file(path) as stored:
        file = gzip.GzipFile(fileobj=stored) if path.endswith(".gz") else stored
        number = 0
        while header := file.read(12):
            if len(header) < 12:
                raise ValueError(f"record {number} is cut off in its header")
            length, length_checksum = struct.unpack("<QI", header)
            if _masked_crc32c(header[:8]) != length_checksum:
                raise ValueError(f"record {number} has a length that does not match its checksum")
            record = file.read(length)
            footer = file.read(4)
            if len(record) < length or len(footer) < 4:
                raise ValueError(f"record {number} is cut off")
            if _masked_crc32c(record) != int.from_bytes(footer, "little"):
                raise ValueError(f"record {number} does not match its checksum")
            yield record
            number += 1


def _masked_crc32c(data: bytes) -> int:
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _batches(records: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(records, size)):
        yield batch


def _read_tables(
    shards: Sequence[str], decoder: ExamplesToRecordBatchDecoder, width: int
) -> Iterator[EmbeddingTable]:
    provenance: Provenance | None = None
    for path in shards:
        try:
            for examples in _batches(read_records(path), _RECORDS_PER_DECODE):
                table = _table(decoder.DecodeBatch(examples), width, provenance)
                provenance = table.provenance
                yield table
        # tfx-bsl raises RuntimeError for a record that is no tf.Example.
        except (ValueError, RuntimeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"cannot read {path}: {error}") from error


def _read_schema(folder: str) -> tuple[schema_pb2.Schema, int]:
    """The schema of the folder, and the width of its embeddings."""
    path = output_folder.schema_path(folder)
    with output_folder.open_file(path) as file:
        content = file.read()
    try:
        schema = text_format.Parse(content, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    for feature in schema.feature:
        if feature.name == _EMBEDDING and len(feature.shape.dim) == 1:
            return schema, feature.shape.dim[0].size
    raise ValueError(f"cannot read {path}: it gives no width for the feature {_EMBEDDING!r}")


def _table(batch: pa.RecordBatch, width: int, earlier: Provenance | None) -> EmbeddingTable:
    vectors = _values(batch, _EMBEDDING, width).to_numpy()
    return EmbeddingTable(
        uris=_texts(_values(batch, _URI, 1)),
        # A copy, because the decoder's buffers are up to twice as large as their content.
        vectors=vectors.reshape(-1, width).copy(),
        sha256=_texts(_values(batch, _SHA256, 1)),
        formats=_texts(_values(batch, _FORMAT, 1)),
        heights=_values(batch, _HEIGHT, 1).to_numpy(),
        widths=_values(batch, _WIDTH, 1).to_numpy(),
        provenance=_provenance(batch, earlier),
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


def _concatenate(tables: list[EmbeddingTable], width: int) -> EmbeddingTable:
    """One table of all rows; empties the list, so that no vector stays in memory twice."""
    made_by = [table.provenance for table in tables if table.provenance is not None]
    provenance = made_by[0] if made_by else None
    empty = np.empty(0, np.int64)
    uris = [uri for table in tables for uri in table.uris]
    sha256 = [digest for table in tables for digest in table.sha256]
    formats = [name for table in tables for name in table.formats]
    heights = np.concatenate([empty, *(table.heights for table in tables)])
    widths = np.concatenate([empty, *(table.widths for table in tables)])
    vectors = np.empty((len(uris), width), np.float32)
    end = len(uris)
    while tables:
        last = tables.pop()
        vectors[end - len(last) : end] = last.vectors
        end -= len(last)
    return EmbeddingTable(uris, vectors, sha256, formats, heights, widths, provenance)
