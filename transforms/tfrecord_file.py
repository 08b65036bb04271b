"""The records of a TFRecord file, read without TensorFlow."""

import gzip
import struct
from collections.abc import Iterator

import google_crc32c

from transforms import output_folder


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
