"""Parquet files of embeddings: the writer and the reader of the format.

`embedding_rows` tells the columns. The floats are stored one after another (PLAIN), the texts
through a dictionary, all of it behind zstd, every page with a checksum.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.formats.embedding_rows import METADATA_KEY
from transforms.formats.embedding_table import EmbeddingTable, Provenance, fill, one_provenance
from transforms.formats.output_features import (
    CLASS_INDEX,
    CLASS_LABEL,
    CLASS_PROBABILITY,
    EMBEDDING,
    LOGITS,
    OUTPUT_FEATURES,
    rows_of,
)
from transforms.storage.output_storage import open_file

# Some 5,000 vectors of 1,536 floats. In a file of 32,768 of them, row groups of 256, 1,024, 5,461
# and 32,768 rows took pyarrow 536, 443, 322 and 1,044 ms to read in batches, and DuckDB 22, 11, 8
# and 8 ms to read the texts alone (the vectors took it 0.5 to 0.7 s whatever the size). More
# would also take more memory: a worker holds so much of each file that it writes.
_ROW_GROUP_BYTES = 32 << 20

# Those that repeat; floats, and texts that all differ, only grow by a dictionary.
_WITH_DICTIONARY = (
    *("width", "height", "format"),
    *("model", "model_fingerprint", "preprocess_fingerprint", "precision", "run_id"),
)

_PROVENANCE = ("model", "model_fingerprint", "preprocess_fingerprint", "precision")

#: The column that holds a feature of `output_features`, and which part of it.
_COLUMNS = {
    EMBEDDING: ("embedding", None),
    LOGITS: ("logits", None),
    CLASS_INDEX: ("classes", "index"),
    CLASS_PROBABILITY: ("classes", "probability"),
    CLASS_LABEL: ("classes", "label"),
}

# Of 1,536 floats these are 6 MB.
_ROWS_PER_BATCH = 1024


# More at once than this and a storage may slow them down.
_CONCURRENT_READS = 16


class RowGroupWriter:
    """Write tables to a Parquet file, in row groups of some 32 MB.

    Any schema will do, such as that of `embedding_rows.rows_schema`.

    Example:
        >>> with open("rows.parquet", "wb") as file:  # doctest: +SKIP
        ...     writer = RowGroupWriter(file, rows.schema)
        ...     writer.write(rows)
        ...     writer.close()
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        repeating = [name for name in _WITH_DICTIONARY if name in schema.names]
        self._writer = pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=repeating or False,
            write_page_checksum=True,
        )

    def write(self, rows: pa.Table) -> None:
        """Add rows, which have the schema of the file; they need not be on disk yet."""
        self._pending.append(rows)
        self._pending_bytes += rows.nbytes
        if self._pending_bytes >= _ROW_GROUP_BYTES:
            self._write_pending()

    def close(self) -> None:
        """Write what is left, and the end of the file, without which no reader takes it."""
        self._write_pending()
        self._writer.close()

    def _write_pending(self) -> None:
        if self._pending:
            rows = pa.concat_tables(self._pending)
            self._writer.write_table(rows, row_group_size=max(1, len(rows)))
        self._pending = []
        self._pending_bytes = 0


def read_parquet_shards(paths: Sequence[str]) -> EmbeddingTable:
    """Read all embeddings of some Parquet files, ordered by file and by place in the file.

    The vectors are in memory once, besides the texts and some 300 MB while they are read.

    Args:
        paths: at least one local path, or URL such as
            gs://bucket/out/embeddings-00000-of-00001.parquet.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or none of this project, or the rows come from different
            models or preprocessing, or hold different outputs or carried columns; the message
            names the file.

    Example:
        >>> table = read_parquet_shards(["out/embeddings-00000-of-00001.parquet"])  # doctest: +SKIP
    """
    told, rows = _read_footers(paths)
    names = [column["name"] for column in told["columns"]]
    return fill(_read_tables(paths, told), rows, told["widths"], names)


def count_parquet_rows(paths: Sequence[str]) -> int:
    """Return how many rows Parquet files have together, as the ends of the files tell.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged; the message names it.
    """

    def rows_in(path: str) -> int:
        with open_file(path) as stored, _damage_named(path):
            return int(pq.read_metadata(stored).num_rows)

    # On a bucket, reading the end of a file is waiting.
    with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
        return sum(pool.map(rows_in, paths))


def _read_footers(paths: Sequence[str]) -> tuple[Mapping[str, Any], int]:
    """What all files tell of their outputs and carried columns, and how many rows they have."""
    told: Mapping[str, Any] = {"widths": {}, "columns": []}
    rows = 0
    for path in paths:
        with open_file(path) as stored, _damage_named(path):
            file = pq.ParquetFile(stored)
            metadata = file.schema_arrow.metadata or {}
            if METADATA_KEY not in metadata:
                raise ValueError(
                    "it was not written by this project: its schema has no 'embed_images'"
                )
            earlier, told = told, json.loads(metadata[METADATA_KEY])
            if path != paths[0] and earlier != told:
                raise ValueError(
                    f"it holds other outputs or carried columns than {paths[0]}; the rows of two "
                    "runs cannot be read into one table"
                )
            rows += file.metadata.num_rows
    return told, rows


def _read_tables(paths: Sequence[str], told: Mapping[str, Any]) -> Iterator[EmbeddingTable]:
    provenance: Provenance | None = None
    for path in paths:
        with open_file(path) as stored, _damage_named(path):
            file = pq.ParquetFile(stored, page_checksum_verification=True)
            rows_read = 0
            for batch in file.iter_batches(_ROWS_PER_BATCH):
                table = _table(batch, told, provenance)
                provenance = table.provenance
                rows_read += len(table)
                yield table
            if rows_read != file.metadata.num_rows:
                raise ValueError(
                    f"there are {rows_read:,} rows in it instead of {file.metadata.num_rows:,}"
                )


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        # Arrow raises OSError without a number for what it cannot parse; those with one come
        # from the file system.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"cannot read {path}: {error}") from error


def _table(
    batch: pa.RecordBatch, told: Mapping[str, Any], earlier: Provenance | None
) -> EmbeddingTable:
    columns = {"vectors": np.empty((len(batch), 0), np.float32)} | {
        OUTPUT_FEATURES[feature].column: rows_of(_outputs(batch, feature, width), width)
        for feature, width in told["widths"].items()
    }
    made_by = (_complete(batch, name).unique().to_pylist() for name in _PROVENANCE)
    return EmbeddingTable(
        uris=_complete(batch, "uri").to_pylist(),
        sha256=_complete(batch, "sha256").to_pylist(),
        generations=batch.column("generation").to_pylist(),
        formats=_complete(batch, "format").to_pylist(),
        heights=_complete(batch, "height").to_numpy(),
        widths=_complete(batch, "width").to_numpy(),
        carried={
            column["name"]: batch.column(column["name"]).to_pylist() for column in told["columns"]
        },
        provenance=one_provenance(made_by, earlier),
        **columns,
    )


def _outputs(batch: pa.RecordBatch, feature: str, width: int) -> pa.Array:
    """All values of a feature in one array, after a check that every row has `width`."""
    name, part = _COLUMNS[feature]
    column = _complete(batch, name)
    values = column.flatten()
    if pc.any(pc.not_equal(pc.list_value_length(column), width)).as_py():
        raise ValueError(f"not every row has {width} values in the column {name!r}")
    if part:
        values = pc.struct_field(values, part)
    if values.null_count:
        raise ValueError(f"there are nulls in the lists of the column {name!r}")
    return values


def _complete(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(name)
    if column.null_count:
        raise ValueError(f"there are nulls in the column {name!r}")
    return column
