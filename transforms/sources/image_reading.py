"""Read the bytes of images, from local disk, buckets, the web, and where Beam else reaches."""

import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass, field, replace

from transforms.errors import (
    ImageError,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    InvalidUri,
)
from transforms.records import DEFAULT_MAX_BYTES, ImageRef, RawImage, Twin
from transforms.storage.file_listing import is_gs, is_http, is_remote, local_generation, local_path
from transforms.storage.http_source import HttpSettings, fetch_url

#: A read that fails for a passing reason is tried again after these many seconds.
RETRY_AFTER_SECONDS = (0.5, 2.0)

#: A link that leads to itself, a socket, a name that no file system would take.
_NO_FILE_HERE = (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.EISDIR)

#: Time-out, too many requests, and the server's own faults.
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)


def read_image(
    ref: ImageRef,
    max_bytes: int = DEFAULT_MAX_BYTES,
    http: HttpSettings = HttpSettings(),
) -> RawImage:
    """Read one image whole, without its twins: a local path, an http(s) URL, or such as gs://.

    The generation of its origin is that of the bytes that were read, where the storage tells it.

    Raises:
        ImageNotFound: nothing is there, or no regular file: a folder, a pipe, a loop of links.
        InvalidUri: no storage has a name for it.
        ImageForbidden: this process is known to the storage and may not read it; see also
            `fetch_url`.
        ImageTooLarge: it has more than `max_bytes` bytes; not more than that is read.
        ImageUnreachable: the server of an http(s) URL failed, also when tried again.
        UndecodableImage: an http(s) URL answered with an unknown or corrupt content coding.
        OSError: any other storage failed, also when tried again.
        UnusableBucket: it is the bucket that fails, and not this object of it.

    Example:
        >>> read_image(ImageRef("photos/cat.jpg")).sha256  # doctest: +SKIP
    """
    if ref.size_bytes is not None and ref.size_bytes > max_bytes:
        raise ImageTooLarge(_too_large(ref.size_bytes, max_bytes))
    if is_http(ref.uri):
        content, generation = fetch_url(ref.uri, max_bytes, http), None
    elif is_gs(ref.uri):
        from transforms.storage.cloud_storage import read_object

        content, generation = read_object(ref.uri, max_bytes)
    else:
        content, generation = _read_with_retries(ref.uri, max_bytes + 1)
        if len(content) > max_bytes:
            raise ImageTooLarge(_too_large(ref.size_bytes, max_bytes))
    origin = ref.origin if generation is None else replace(ref.origin, generation=generation)
    return RawImage(ref.uri, content, hashlib.sha256(content).hexdigest(), origin)


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """What became of a reference and its twins: each of them is in one of these, once."""

    images: list[RawImage] = field(default_factory=list)
    """One for each content, with the others that hold it as its twins."""
    failed: list[tuple[ImageRef, ImageError]] = field(default_factory=list)
    unchanged: list[ImageRef] = field(default_factory=list)
    """Their content is the one that an earlier run embedded, as their `known_sha256` says."""


def read_group(
    ref: ImageRef,
    max_bytes: int = DEFAULT_MAX_BYTES,
    http: HttpSettings = HttpSettings(),
) -> ReadGroup:
    """Read a reference and its twins, each of them, and sort them by what they really hold.

    Two of them share a `RawImage` only if their bytes have the same SHA-256, whatever made them
    twins. Each content is held once.

    Raises:
        OSError, UnusableBucket: as `read_image`. An `ImageError` is that image's alone.
    """
    group = ReadGroup()
    images: dict[str, RawImage] = {}
    for member in (replace(ref, twins=()), *ref.twins):
        try:
            raw = read_image(member, max_bytes, http)
        except ImageError as error:
            group.failed.append((member, error))
            continue
        same = images.get(raw.sha256)
        if raw.sha256 == member.known_sha256:
            group.unchanged.append(member)
        elif same is None:
            images[raw.sha256] = raw
        else:
            images[raw.sha256] = replace(same, twins=(*same.twins, Twin(raw.uri, raw.origin)))
    group.images.extend(images.values())
    return group


def _too_large(size: int | None, max_bytes: int) -> str:
    has = "more" if size is None else f"{size:,} bytes, more"
    return f"the file has {has} than the {max_bytes:,} bytes of input.max_bytes"


def _read_with_retries(uri: str, size: int) -> tuple[bytes, str | None]:
    for seconds in (*RETRY_AFTER_SECONDS, None):
        try:
            return _read(uri, size)
        except Exception as error:
            _raise_if_image_error(uri, error)
            if seconds is None or not _may_pass(error):
                raise
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _read(uri: str, size: int) -> tuple[bytes, str | None]:
    if not is_remote(uri):
        path = local_path(uri)
        # Opening a pipe would wait for ever for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageNotFound(f"{uri} is no regular file, such as a folder or a pipe")
        with open(path, "rb") as file:
            # Before the bytes: what is written from now on is another generation.
            generation = local_generation(os.fstat(file.fileno()))
            return file.read(size), generation
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # AUTO would unpack a file whose name ends in .gz, past every limit on its size.
    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read(size)
        return content, None


def _causes(error: Exception) -> list[Exception]:
    """Return what a file system raised, from under the wrapping of Beam's BeamIOError."""
    details = getattr(error, "exception_details", None)
    return list(details.values()) if details else [error]


def _status(error: Exception) -> object:
    """Return the HTTP status that an error of a client of the clouds carries."""
    return getattr(error, "code", None) or getattr(error, "status_code", None)


def _raise_if_image_error(uri: str, error: Exception) -> None:
    """Raise the `ImageError` that an error of the storage stands for, if it stands for one."""
    for cause in _causes(error):
        if isinstance(cause, FileNotFoundError | NotADirectoryError) or _status(cause) == 404:
            raise ImageNotFound(f"there is no file at {uri}") from error
        if isinstance(cause, OSError) and cause.errno in _NO_FILE_HERE:
            raise ImageNotFound(f"there is no file at {uri}: {cause.strerror}") from error
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
