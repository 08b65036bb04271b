"""`ReadImages`: from references to bytes."""

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge
from transforms.file_listing import storage_path
from transforms.outcome import AttemptEach, BreakerSettings, Outcome
from transforms.records import ImageRef, RawImage

DEFAULT_MAX_BYTES = 64 * 1024 * 1024

#: A read that fails for a passing reason is tried again after these many seconds; then the
#: bundle fails, and the runner may try that again.
RETRY_AFTER_SECONDS = (0.5, 2.0)


@dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Read each `ImageRef` whole: `Outcome[RawImage]`.

    A missing or forbidden file, or one over `max_bytes`, becomes a failure. Other errors of the
    storage are tried again, and then fail the bundle.

    Example:
        >>> read = refs | ReadImages(max_bytes=10_000_000)  # doctest: +SKIP
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: BreakerSettings = BreakerSettings()

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")

    @no_annotations
    def expand(self, refs: beam.PCollection[ImageRef]) -> Outcome:
        """Return the bytes of each image, and the failures."""
        outcome: Outcome = refs | "Read" >> AttemptEach(
            stage="ReadImages",
            verb="read",
            past_tense="read",
            function=partial(read_image, max_bytes=self.max_bytes),
            uri_of=attrgetter("uri"),
            breaker=self.breaker,
        )
        return outcome


def read_image(ref: ImageRef, max_bytes: int = DEFAULT_MAX_BYTES) -> RawImage:
    """Read one image whole, from any storage that Beam's FileSystems knows.

    Raises:
        ImageNotFound: nothing is there, or it is a folder.
        ImageForbidden: this process may not read it.
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
            # AUTO would unpack a file whose name ends in .gz, past every limit on its size.
            with FileSystems.open(
                storage_path(uri), compression_type=CompressionTypes.UNCOMPRESSED
            ) as file:
                content: bytes = file.read(size)
                return content
        except Exception as error:
            _raise_if_final(uri, error)
            if seconds is None:
                raise
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _raise_if_final(uri: str, error: Exception) -> None:
    """Raise the `ImageError` that an error of the storage stands for, if it stands for one."""
    # Beam wraps what a file system raises; HTTP clients carry a status code.
    causes = list(error.exception_details.values()) if isinstance(error, BeamIOError) else [error]
    for cause in causes:
        code = getattr(cause, "code", None) or getattr(cause, "status_code", None)
        if isinstance(cause, FileNotFoundError | NotADirectoryError) or code == 404:
            raise ImageNotFound(f"there is no file at {uri}") from error
        if isinstance(cause, IsADirectoryError):
            raise ImageNotFound(f"{uri} is a folder, not a file") from error
        if isinstance(cause, PermissionError) or code in (401, 403):
            raise ImageForbidden(f"this process may not read {uri}: {cause}") from error
