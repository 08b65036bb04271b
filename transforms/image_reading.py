"""Read the bytes of one image, from local disk, the web, and wherever Beam's FileSystems reach."""

import errno
import hashlib
import os
import stat
import time

from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge, InvalidUri
from transforms.file_listing import is_http, is_remote, local_path
from transforms.http_source import HttpSettings, fetch_url
from transforms.records import DEFAULT_MAX_BYTES, ImageRef, RawImage

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
    """Read one image whole: a local path, an http(s) URL, or a URI such as gs://.

    Raises:
        ImageNotFound: nothing is there, or no regular file: a folder, a pipe, a loop of links.
        InvalidUri: no storage has a name for it.
        ImageForbidden: this process is known to the storage and may not read it; see also
            `fetch_url`.
        ImageTooLarge: it has more than `max_bytes` bytes; not more than that is read.
        ImageUnreachable: the server of an http(s) URL failed, also when tried again.
        UndecodableImage: an http(s) URL answered with an unknown or corrupt content coding.
        OSError: any other storage failed, also when tried again.

    Example:
        >>> read_image(ImageRef("photos/cat.jpg")).sha256  # doctest: +SKIP
    """
    if ref.size_bytes is not None and ref.size_bytes > max_bytes:
        raise ImageTooLarge(_too_large(ref.size_bytes, max_bytes))
    if is_http(ref.uri):
        content = fetch_url(ref.uri, max_bytes, http)
    else:
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
    if not is_remote(uri):
        path = local_path(uri)
        # Opening a pipe would wait for ever for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageNotFound(f"{uri} is no regular file, such as a folder or a pipe")
        with open(path, "rb") as file:
            return file.read(size)
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # AUTO would unpack a file whose name ends in .gz, past every limit on its size.
    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read(size)
        return content


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
