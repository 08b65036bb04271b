"""The records of a TFRecord file, read without TensorFlow."""

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import google_crc32c

from transforms.storage.output_storage import open_file


@dataclass(frozen=True, slots=True)
class Record:
    """One record, and where it lies in the file as it is unpacked."""

    offset: int
    length: int
    content: bytes | None
    """None where it was too long to be read."""


def read_records(path: str) -> Iterator[bytes]:
    """The records of one TFRecord file, gunzipped where its name ends with .gz.

    Reads without TensorFlow, which is slow to import and finds its own way to buckets.
    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

    Raises:
        ValueError: a record is cut off or does not match its checksum.
        EOFError, gzip.BadGzipFile, zlib.error: the compressed file is damaged.

    Example:
        >>> examples = list(read_records("out/embeddings-00000-of-00001.tfrecord")) # doctest: +SKIP
    """
    with open_tfrecord(path) as file:
        for record in located_records(file):
            yield cast(bytes, record.content)


@contextmanager
def open_tfrecord(path: str) -> Iterator[BinaryIO]:
    """Open a file for `located_records` and `record_at`, gunzipped where its name ends with .gz."""
    with open_file(path) as stored:
        if path.endswith(".gz"):
            yield cast(BinaryIO, gzip.GzipFile(fileobj=stored))
        else:
            yield stored


def located_records(file: BinaryIO, max_length: int | None = None) -> Iterator[Record]:
    """Yield the records from the beginning of an open file on.

    Args:
        file: from `open_tfrecord`.
        max_length: the content of a record that has more bytes is passed over, unread.

    Raises:
        ValueError, EOFError, gzip.BadGzipFile, zlib.error: as `read_records`.
    """
    offset = 0
    number = 0
    while header := file.read(12):
        length = _checked_length(header, number)
        if max_length is not None and length > max_length:
            file.seek(offset + 12 + length)
            if len(file.read(4)) < 4:
                raise ValueError(f"record {number} is cut off")
            yield Record(offset, length, None)
        else:
            yield Record(offset, length, _checked_content(file, length, number))
        offset += 12 + length + 4
        number += 1


def record_at(file: BinaryIO, offset: int) -> bytes:
    """Return the record that begins at the offset of an open file.

    Of a compressed file everything before it is unpacked, unless the file is read forwards.

    Raises:
        ValueError, EOFError, gzip.BadGzipFile, zlib.error: as `read_records`.
    """
    file.seek(offset)
    name = f"at byte {offset:,}"
    return _checked_content(file, _checked_length(file.read(12), name), name)


def _checked_length(header: bytes, name: int | str) -> int:
    if len(header) < 12:
        raise ValueError(f"record {name} is cut off in its header")
    length: int
    length, length_checksum = struct.unpack("<QI", header)
    if _masked_crc32c(header[:8]) != length_checksum:
        raise ValueError(f"record {name} has a length that does not match its checksum")
    return length


def _checked_content(file: BinaryIO, length: int, name: int | str) -> bytes:
    record = file.read(length)
    footer = file.read(4)
    if len(record) < length or len(footer) < 4:
        raise ValueError(f"record {name} is cut off")
    if _masked_crc32c(record) != int.from_bytes(footer, "little"):
        raise ValueError(f"record {name} does not match its checksum")
    return record


def _masked_crc32c(data: bytes) -> int:
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
