"""Read the bytes of one image, from local disk, the web, and wherever Beam's FileSystems reach."""

import hashlib
import time

from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge
from transforms.file_listing import is_http, is_remote, local_path
from transforms.http_source import HttpSettings, fetch_url
from transforms.records import ImageRef, RawImage

DEFAULT_MAX_BYTES = 64 * 1024 * 1024

#: A read that fails for a passing reason is tried again after these many seconds.
RETRY_AFTER_SECONDS = (0.5, 2.0)


def read_image(
    ref: ImageRef,
    max_bytes: int = DEFAULT_MAX_BYTES,
    http: HttpSettings = HttpSettings(),
) -> RawImage:
    """Read one image whole: a local path, an http(s) URL, or a URI such as gs://.

    Raises:
        ImageNotFound: nothing is there, or it is a folder.
        ImageForbidden: this process may not read it; see also `fetch_url`.
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
            _raise_if_final(uri, error)
            if seconds is None:
                raise
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _read(uri: str, size: int) -> bytes:
    if not is_remote(uri):
        with open(local_path(uri), "rb") as file:
            return file.read(size)
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # AUTO would unpack a file whose name ends in .gz, past every limit on its size.
    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read(size)
        return content


def _raise_if_final(uri: str, error: Exception) -> None:
    """Raise the `ImageError` that an error of the storage stands for, if it stands for one."""
    # Beam's BeamIOError wraps what a file system raises; HTTP clients carry a status code.
    details = getattr(error, "exception_details", None)
    for cause in details.values() if details else [error]:
        code = getattr(cause, "code", None) or getattr(cause, "status_code", None)
        if isinstance(cause, FileNotFoundError | NotADirectoryError) or code == 404:
            raise ImageNotFound(f"there is no file at {uri}") from error
        if isinstance(cause, IsADirectoryError):
            raise ImageNotFound(f"{uri} is a folder, not a file") from error
        if isinstance(cause, PermissionError) or code in (401, 403):
            raise ImageForbidden(f"this process may not read {uri}: {cause}") from error
