"""`ReadImages`: from references to bytes."""

import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.typehints.decorators import no_annotations

from transforms.attempt_each import AttemptEach, Outcome
from transforms.breaker import BreakerSettings
from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge, InvalidUri
from transforms.file_listing import is_remote, storage_path
from transforms.records import DEFAULT_MAX_BYTES, ImageRef, RawImage

#: A read that fails for a passing reason is tried again after these many seconds; then the
#: bundle fails, and the runner may try that again.
RETRY_AFTER_SECONDS = (0.5, 2.0)

#: A link that leads to itself, a socket, a name that no file system would take.
_NO_FILE_HERE = (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.EISDIR)

#: Time-out, too many requests, and the server's own faults.
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)


@dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Read each `ImageRef` whole: `Outcome[RawImage]`.

    A missing or forbidden file, or one over `max_bytes`, becomes a failure. Passing errors of
    the storage are tried again; then they, and all others, fail the bundle.

    Example:
        >>> read = refs | ReadImages(max_bytes=10_000_000)  # doctest: +SKIP
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: BreakerSettings = BreakerSettings()

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")

    @no_annotations  # See AttemptEach.
    def expand(self, refs: beam.PCollection[ImageRef]) -> Outcome:
        """Return the bytes of each image, and the failures."""
        outcome: Outcome = refs | "Read" >> AttemptEach(
            stage="ReadImages",
            past_tense="read",
            function=partial(read_image, max_bytes=self.max_bytes),
            uri_of=attrgetter("uri"),
            breaker=self.breaker,
            timing="read-msec",
        )
        return outcome


def read_image(ref: ImageRef, max_bytes: int = DEFAULT_MAX_BYTES) -> RawImage:
    """Read one image whole, from any storage that Beam's FileSystems knows.

    Raises:
        ImageNotFound: nothing is there, or no regular file: a folder, a pipe, a loop of links.
        InvalidUri: no storage has a name for it.
        ImageForbidden: this process is known to the storage, and may not read this file.
        ImageTooLarge: it has more than `max_bytes` bytes; not more than that is read.
        OSError: the storage failed, also when tried again.
    """
    if ref.size_bytes is not None and ref.size_bytes > max_bytes:
        raise ImageTooLarge(_too_large(ref.size_bytes, max_bytes))
    content = _read_with_retries(ref.uri, max_bytes + 1)
    if len(content) > max_bytes:
        raise ImageTooLarge(_too_large(ref.size_bytes, max_bytes))
    return RawImage(ref.uri, content, hashlib.sha256(content).hexdigest())


def _too_large(size: int | None, max_bytes: int) -> str:
    has = "more" if size is None else f"{size:,} bytes, more"
    return f"the file has {has} than the {max_bytes:,} bytes of input.max_bytes"


def _read_with_retries(uri: str, size: int) -> bytes:
    for seconds in (*RETRY_AFTER_SECONDS, None):
        try:
            return _read(uri, size)
        except Exception as error:
            _raise_if_image_error(uri, error)
            if seconds is None or not _may_pass(error):
                raise
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _read(uri: str, size: int) -> bytes:
    path = storage_path(uri)
    # Opening a pipe would wait for ever for somebody to write into it.
    if not is_remote(uri) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageNotFound(f"{uri} is no regular file")
    # AUTO would unpack a file whose name ends in .gz, past every limit on its size.
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read(size)
        return content


def _causes(error: Exception) -> list[Exception]:
    """Return what a file system raised, from under Beam's wrapping."""
    return list(error.exception_details.values()) if isinstance(error, BeamIOError) else [error]


def _status(error: Exception) -> object:
    """Return the HTTP status that an error of a client of the clouds carries."""
    return getattr(error, "code", None) or getattr(error, "status_code", None)


def _raise_if_image_error(uri: str, error: Exception) -> None:
    """Raise the `ImageError` that an error of the storage stands for, if it stands for one."""
    for cause in _causes(error):
        if isinstance(cause, FileNotFoundError | NotADirectoryError) or _status(cause) == 404:
            raise ImageNotFound(f"there is no file at {uri}") from error
        if getattr(cause, "errno", None) in _NO_FILE_HERE:
            raise ImageNotFound(f"there is no file at {uri}: {cause.strerror}") from error  # type: ignore[attr-defined]
        # 401 is another matter: the credentials are bad, and every image would fail with them.
        if isinstance(cause, PermissionError) or _status(cause) == 403:
            raise ImageForbidden(f"this process may not read {uri}: {cause}") from error
        if isinstance(cause, ValueError):
            raise InvalidUri(f"{uri!r} names nothing that can be read: {cause}") from error


def _may_pass(error: Exception) -> bool:
    """Return whether it makes sense to try again."""
    return any(
        isinstance(cause, OSError) or _status(cause) in _PASSING_STATUS for cause in _causes(error)
    )
