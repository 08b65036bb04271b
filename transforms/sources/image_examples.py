"""Images in TFRecords of tf.Examples, as TF-Slim, TFDS and the TensorFlow models write them.

The records are decoded by the decoder of TFXIO's TFExampleRecord. Its reader is not used: that
tells neither file nor record, so one broken record would fail the whole job, and one file would
be read by one worker.
"""

import difflib
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from transforms.errors import (
    ImageError,
    ImageTooLarge,
    InvalidRow,
    InvalidUri,
    RequestError,
    UnreadableInput,
)
from transforms.formats.tfrecord_file import located_records, open_tfrecord, record_at
from transforms.records import (
    DEFAULT_MAX_BYTES,
    CarriedColumn,
    CarriedValue,
    ImageRef,
    Origin,
    RawImage,
)
from transforms.sources.carried_columns import convert
from transforms.storage.file_errors import read_errors_as_request_errors
from transforms.storage.file_listing import is_http, list_files, local_uri, storage_path

PREFIX = "tfrecord:"

IMAGE = "image/encoded"

#: Where the name of the image is looked for, in this order.
URI_FEATURES = ("image/uri", "image/filename", "image/source_id")

#: What a record may hold besides its image.
_OTHER_FEATURES_BYTES = 2**26

#: What one worker reads at a time of a file that is not compressed.
_STRETCH_BYTES = 2**25

#: So many records are looked at before the job starts.
_CHECKED_RECORDS = 20


@dataclass(frozen=True, slots=True)
class ExampleRef:
    """An image in a TFRecord file."""

    ref: ImageRef
    sha256: str
    path: str
    offset: int
    """Of the record, in the file as it is unpacked."""

    @property
    def stretch(self) -> tuple[str, int]:
        """Examples with the same one are read by one worker, in the order of their offsets."""
        compressed = self.path.endswith(".gz")
        return self.path, 0 if compressed else self.offset // _STRETCH_BYTES


@dataclass(frozen=True, slots=True)
class BadExample:
    """A record without an image that could be embedded."""

    uri: str
    """Of the image, or FILE:record N where the record has none."""
    error: ImageError


def is_examples(location: str) -> bool:
    """Return whether an input names TFRecords of images.

    Example:
        >>> is_examples("tfrecord:gs://bucket/shards-*")
        True
    """
    return location.startswith(PREFIX)


def example_files(location: str) -> Iterator[str]:
    """Yield the files that `tfrecord:PATH-or-PATTERN` names.

    Raises:
        FileNotFoundError: a path without wildcards leads nowhere.
        OSError: it cannot be listed.
    """
    location = location.removeprefix(PREFIX)
    if is_http(location):
        raise OSError("TFRecords are not read over http(s); download them and name the files")
    for listed in list_files(location):
        if not listed.ref.uri.endswith("/_SUCCESS"):
            yield storage_path(listed.ref.uri)


def find_examples(
    path: str, columns: tuple[CarriedColumn, ...] = (), max_bytes: int = DEFAULT_MAX_BYTES
) -> Iterator[ExampleRef | BadExample]:
    """Yield a reference for each record of a file, or what is wrong with it.

    The URI is the text of the first of image/uri, image/filename and image/source_id that is
    there and not empty, as it is; else `sha256:` and the SHA-256 of the image's bytes, which
    stays the same wherever the record goes. A carried column is the feature of its name: null
    where it has no value, and JSON where a string column has several.

    Raises:
        UnreadableInput: the file is no TFRecord file, or damaged.
        OSError: it cannot be read.

    Example:
        >>> refs = list(find_examples("shards-00000-of-00010"))  # doctest: +SKIP
    """
    with _opened(path) as file:
        records = located_records(file, max_bytes + _OTHER_FEATURES_BYTES)
        for number, record in enumerate(records, start=1):
            name = f"{local_uri(path)}:record {number}"
            uri = None
            try:
                if record.content is None:
                    raise ImageTooLarge(_too_large(record.length, max_bytes))
                features = _features(record.content)
                content = _image(features)
                sha256 = hashlib.sha256(content).hexdigest()
                uri = _uri(features) or f"sha256:{sha256}"
                if len(content) > max_bytes:
                    raise ImageTooLarge(_too_large(len(content), max_bytes))
                ref = ImageRef(uri, len(content), origin=Origin(None, _carried(features, columns)))
                yield ExampleRef(ref, sha256, path, record.offset)
            except ImageError as error:
                yield BadExample(uri or name, type(error)(f"{name}: {error}"))


def one_of_each(examples: Sequence[ExampleRef]) -> tuple[ExampleRef, list[BadExample]]:
    """Return the first of the examples that have the same URI, and those with another image.

    The same image again is dropped.
    """
    first, *others = sorted(examples, key=lambda example: (example.path, example.offset))
    return first, [
        BadExample(
            other.ref.uri,
            InvalidUri(
                f"the record at byte {other.offset:,} of {local_uri(other.path)} has the same name "
                f"as that at byte {first.offset:,} of {local_uri(first.path)}, which holds another "
                f"image; give each image its own {URI_FEATURES[0]}"
            ),
        )
        for other in others
        if other.sha256 != first.sha256
    ]


def read_examples(examples: Sequence[ExampleRef]) -> Iterator[RawImage]:
    """Yield the images of references into one file.

    Raises:
        UnreadableInput: the file is not the one that the references were made from.
        OSError: it cannot be read.
    """
    path = examples[0].path
    with _opened(path) as file:
        for example in sorted(examples, key=lambda example: example.offset):
            batch = _image_decoder().DecodeBatch([record_at(file, example.offset)])
            content = batch.column(0)[0][0].as_py()
            if hashlib.sha256(content).hexdigest() != example.sha256:
                raise UnreadableInput(f"{path} has changed while it was read; run the job again")
            yield RawImage(example.ref.uri, content, example.sha256, example.ref.origin)


def check_examples(location: str, columns: tuple[CarriedColumn, ...] = ()) -> None:
    """Check that TFRecords are there, with images and carried columns, before the job starts.

    The first records of the first file that has any are looked at.

    Raises:
        RequestError: nothing is there or can be read, or a feature is in none of these records.
    """
    found: dict[str, None] = {}
    any_record = False
    problem: ImageError | None = None
    path = None
    with read_errors_as_request_errors(f"--input {location}", location):
        for path in example_files(location):
            with _opened(path) as file:
                records = located_records(file, DEFAULT_MAX_BYTES + _OTHER_FEATURES_BYTES)
                for record in itertools.islice(records, _CHECKED_RECORDS):
                    any_record = True
                    try:
                        found.update(dict.fromkeys(_features(record.content or b"")))
                    except InvalidRow as error:
                        problem = error
            if any_record:
                break
    if path is None:
        raise RequestError(f"--input {location}: nothing matched, so there is nothing to embed")
    if not any_record:
        raise RequestError(f"--input {location}: there is no record, so there is nothing to embed")
    for name in (IMAGE, *(column.name for column in columns)):
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            raise RequestError(
                f"--input {location}: the first records of {path} have no feature {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ";")
                + (f" They have {', '.join(map(repr, found))}" if found else f" {problem}")
            )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with open_tfrecord(path) as file:
            yield file
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableInput(f"{path} is no TFRecord file, or damaged: {error}") from error


def _features(record: bytes) -> dict[str, list[Any] | None]:
    try:
        batch = _decoder().DecodeBatch([record])
    except RuntimeError as error:
        raise InvalidRow(f"this is no tf.Example: {error}") from error
    features: dict[str, list[Any] | None] = {
        name: column[0].as_py()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return features


def _image(features: dict[str, list[Any] | None]) -> bytes:
    values = features.get(IMAGE)
    if not values:
        names = ", ".join(map(repr, sorted(features)))
        raise InvalidRow(f"there is no {IMAGE}; the features are {names[:200] or 'none'}")
    if len(values) > 1 or not isinstance(values[0], bytes):
        raise InvalidRow(
            f"{IMAGE} holds {len(values)} values of type {type(values[0]).__name__}; it has to "
            "hold the bytes of one encoded image"
        )
    return values[0]


def _uri(features: dict[str, list[Any] | None]) -> str | None:
    for name in URI_FEATURES:
        values = features.get(name)
        if values and values[0] != b"":
            value = values[0]
            try:
                text = value.decode() if isinstance(value, bytes) else str(value)
            except UnicodeDecodeError as error:
                raise InvalidUri(f"{name} holds {value[:80]!r}, which is no UTF-8") from error
            return text
    return None


def _carried(
    features: dict[str, list[Any] | None], columns: tuple[CarriedColumn, ...]
) -> tuple[CarriedValue, ...]:
    return tuple(convert(_value(features.get(column.name)), column) for column in columns)


def _value(values: list[Any] | None) -> Any:
    if not values:
        return None
    # Text in bytes may stand for a number; what is no UTF-8 is refused by `convert`.
    plain = [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for value in values
    ]
    return plain if len(plain) > 1 else plain[0]


@cache
def _decoder() -> ExamplesToRecordBatchDecoder:
    return ExamplesToRecordBatchDecoder()


@cache
def _image_decoder() -> ExamplesToRecordBatchDecoder:
    schema = schema_pb2.Schema()
    schema.feature.add(name=IMAGE, type=schema_pb2.BYTES)
    return ExamplesToRecordBatchDecoder(schema.SerializeToString())


def _too_large(size: int, max_bytes: int) -> str:
    return f"there are {size:,} bytes, more than the {max_bytes:,} bytes of input.max_bytes"
