"""Parquet files of rows on their way into BigQuery.

They lie on `gs://`, where BigQuery reads them; a local path will do for a look at them. Beam, which
is slow to import, is imported for URLs only.
"""

import logging
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.formats.parquet_file import RowGroupWriter
from transforms.storage.file_listing import is_remote
from transforms.storage.output_storage import delete, open_file, paths_starting_with
from transforms.workers.worker_log import log_event

#: The rows of a file that is narrowed down to those that BigQuery refuses fit into memory.
FILE_BYTES = 256 << 20

_ROWS_AT_ONCE_BYTES = 16 << 20


def rows_at_once(width: int) -> int:
    """Return how many embeddings are made rows in one go.

    Args:
        width: of the vectors, in float32 values.

    Example:
        >>> rows_at_once(1536)
        2730
    """
    return min(8192, max(256, _ROWS_AT_ONCE_BYTES // (4 * max(width, 1))))


class RowFile:
    """A file of rows that is written bit by bit.

    Example:
        >>> file = RowFile("gs://temp/rows.parquet", rows.schema)  # doctest: +SKIP
        >>> file.write(rows)  # doctest: +SKIP
        >>> file.close()  # doctest: +SKIP
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        """Begin a file; on gs:// nobody sees it before it is closed."""
        self.path = path
        self.is_full = False
        self._bytes = 0
        self._file = _create(path)
        self._writer = RowGroupWriter(self._file, schema)

    def write(self, rows: pa.Table) -> None:
        """Write some rows more."""
        self._writer.write(rows)
        self._bytes += rows.nbytes
        self.is_full = self._bytes >= FILE_BYTES

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
        self._file.close()


def write_row_file(path: str, rows: pa.Table) -> None:
    """Write all rows to one file."""
    file = RowFile(path, rows.schema)
    file.write(rows)
    file.close()


def read_row_file(path: str) -> pa.Table:
    """Return all rows of a file.

    Raises:
        pyarrow.ArrowInvalid: it is no Parquet file.
    """
    with open_file(path) as file:
        return pq.read_table(file)


def discard_row_files(folder: str) -> None:
    """Delete all files of a folder. What cannot be deleted stays, and the log says so."""
    try:
        delete(paths_starting_with(f"{folder}/"))
    except Exception as error:  # The clients of the clouds raise errors of many kinds.
        log_event(logging.WARNING, "files-left-over", folder=folder, error=type(error).__name__)


def _create(path: str) -> BinaryIO:
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        file: BinaryIO = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return file
    return open(path, "wb")
