"""List and read the objects of Cloud Storage: gs://bucket/name.

Names are exact: nothing in them is a wildcard, and `#`, `?`, `%20` and spaces stand for
themselves. Too many requests (429), faults of the server (5xx) and broken connections are tried
again for a minute, ever less often (https://cloud.google.com/storage/docs/retry-strategy).
`STORAGE_EMULATOR_HOST` leads to an emulator.
"""

import base64
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.api_core.exceptions import (
    BadRequest,
    Forbidden,
    GoogleAPICallError,
    GoogleAPIError,
    NotFound,
    RequestRangeNotSatisfiable,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from transforms.errors import (
    ImageError,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    InvalidUri,
    UnusableBucket,
)

#: How often and how long a request is tried again.
RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=16.0, multiplier=2.0).with_timeout(60.0)

#: Seconds to connect, and between two packets.
_TIMEOUT = (10.0, 60.0)

#: Connections that a process keeps open: some threads of Beam, sixteen reads each.
_CONNECTIONS = 128

#: All that is asked of a list, so that no object needs a request of its own.
_FIELDS = "items(name,size,generation,md5Hash,crc32c,updated),nextPageToken"

_NEEDED = (
    "grant the account of this process roles/storage.objectViewer on the bucket "
    "(storage.objects.get and storage.objects.list)"
)

_LOG_IN = (
    "give this process credentials that are valid, for instance with: "
    "gcloud auth application-default login"
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a list of a bucket tells of an object."""

    uri: str
    size_bytes: int
    generation: str
    """Another one whenever the object is written."""
    updated: float
    """Seconds since the epoch."""
    md5: str | None
    """Of the content, 32 hexadecimal digits. None for an object composed of parts."""
    crc32c: str | None
    """Of the content, 8 hexadecimal digits."""


def list_objects(prefix_uri: str, limit: int | None = None) -> Iterator[StoredObject]:
    """Yield the objects whose URI begins with `prefix_uri`, in the order of their names.

    One request lists a thousand objects.

    Raises:
        FileNotFoundError: there is no such bucket.
        OSError: this process may not list it, or the storage failed, also when tried again.
        ValueError: the URI names no bucket.

    Example:
        >>> [found.size_bytes for found in list_objects("gs://bucket/photos/")]  # doctest: +SKIP
    """
    bucket, prefix = _split(prefix_uri)
    try:
        for blob in _list(bucket, prefix, limit):
            yield _stored(bucket, blob)
    except (GoogleAPIError, GoogleAuthError) as error:
        raise _listing_error(bucket, error) from error


def stat_object(uri: str) -> StoredObject:
    """Return what is known of one object, in one request.

    Raises:
        ImageNotFound, ImageForbidden, InvalidUri, UnusableBucket, OSError: as `read_object`.
    """
    bucket, name = _split_object(uri)
    with _object_errors(uri):
        blob = _client().bucket(bucket).blob(name)
        blob.reload(retry=RETRY, timeout=_TIMEOUT)
        return _stored(bucket, blob)


def read_object(uri: str, limit: int) -> tuple[bytes, str | None]:
    """Return the content of an object and the generation that was read, in one request.

    The content is held against its checksum. What is stored as gzip by its Content-Encoding is
    unpacked, and the limit holds for what comes out. The generation is None where the server
    tells none, as some emulators.

    Raises:
        ImageNotFound: the bucket has no such object.
        ImageForbidden: this process may not read this object, though others of the bucket.
        InvalidUri: no object can have this name.
        ImageTooLarge: it has more than `limit` bytes; not more than that is kept.
        UnusableBucket: there is no such bucket, or this process may read nothing in it (any
            more). This is nothing that one image could be blamed for.
        OSError: the storage failed, also when tried again.

    Example:
        >>> content, generation = read_object("gs://bucket/cat.jpg", 10**7)  # doctest: +SKIP
    """
    bucket, name = _split_object(uri)
    target = _Bounded(limit)
    with _object_errors(uri):
        blob = _client().bucket(bucket).blob(name)
        blob.download_to_file(target, retry=RETRY, timeout=_TIMEOUT)
    _readable[bucket] = name
    generation = blob.generation
    return target.content(), None if generation is None else str(generation)


def check_readable(uri: str) -> None:
    """Read the first byte of an object that a list has named, in one request.

    Raises:
        ImageNotFound: it is gone by now.
        UnusableBucket: this process may list the bucket, and not read this object.
        OSError: the storage failed, also when tried again.

    Example:
        >>> check_readable("gs://bucket/cat.jpg")  # doctest: +SKIP
    """
    bucket, name = _split_object(uri)
    try:
        # As it is stored, since of what is unpacked on the way all would be sent.
        _client().bucket(bucket).blob(name).download_to_file(
            _Bounded(1),
            start=0,
            end=0,
            raw_download=True,
            checksum=None,
            retry=RETRY,
            timeout=_TIMEOUT,
        )
    except (RequestRangeNotSatisfiable, ImageTooLarge):
        # An empty object, or a server that knows no ranges: it may be read.
        pass
    except NotFound as error:
        raise ImageNotFound(f"there is no object {uri}") from error
    except Forbidden as error:
        raise UnusableBucket(
            f"gs://{bucket} can be listed, but this process may not read {uri}: {error.message}; "
            f"{_NEEDED}"
        ) from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OSError(f"cannot read {uri}: {_reason(error)}") from error


class _Bounded:
    """A file for the client to write to, which takes no more than it may."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, part: bytes) -> int:
        self._size += len(part)
        if self._size > self._limit:
            raise ImageTooLarge(
                f"the file has more than the {self._limit:,} bytes of input.max_bytes"
            )
        self._parts.append(part)
        return len(part)

    def seek(self, position: int) -> None:
        """Begin anew: after a broken connection the client gets unpacked content from its start."""
        assert position == 0
        self._parts.clear()
        self._size = 0

    def content(self) -> bytes:
        return b"".join(self._parts)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise ValueError(f"{uri!r} names no bucket; write gs://BUCKET/NAME")
    return bucket, name


def _split_object(uri: str) -> tuple[str, str]:
    try:
        bucket, name = _split(uri)
        # A name is UTF-8, always.
        name.encode()
    except ValueError as error:
        raise InvalidUri(f"{uri!r} names nothing that can be read: {error}") from error
    if not name:
        raise InvalidUri(f"{uri} names a bucket and no object")
    return bucket, name


def _list(bucket: str, prefix: str, limit: int | None) -> Iterator[Any]:
    yield from _client().list_blobs(
        bucket,
        prefix=prefix or None,
        max_results=limit,
        fields=_FIELDS,
        retry=RETRY,
        timeout=_TIMEOUT,
    )


def _stored(bucket: str, blob: Any) -> StoredObject:
    return StoredObject(
        uri=f"gs://{bucket}/{blob.name}",
        size_bytes=int(blob.size),
        generation=str(blob.generation),
        updated=blob.updated.timestamp(),
        md5=_hexadecimal(blob.md5_hash),
        crc32c=_hexadecimal(blob.crc32c),
    )


def _hexadecimal(checksum: str | None) -> str | None:
    return None if checksum is None else base64.b64decode(checksum).hex()


def _listing_error(bucket: str, error: Exception) -> OSError:
    if isinstance(error, NotFound):
        return FileNotFoundError(f"there is no bucket gs://{bucket}")
    if isinstance(error, Forbidden):
        return OSError(f"this process may not list gs://{bucket}: {error.message}; {_NEEDED}")
    return OSError(f"cannot list gs://{bucket}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{error}; {_LOG_IN}" if isinstance(error, GoogleAuthError) else str(error)


#: Which `ImageError` an answer means, if the bucket itself is in order.
_MEANINGS: dict[type[GoogleAPICallError], tuple[type[ImageError], str]] = {
    NotFound: (ImageNotFound, "there is no object {uri}"),
    Forbidden: (ImageForbidden, "this process may not read {uri}: {reason}"),
    BadRequest: (InvalidUri, "{uri!r} names nothing that can be read: {reason}"),
}


@contextmanager
def _object_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except tuple(_MEANINGS) as error:
        _check_bucket(_split(uri)[0])
        kind, message = next(_MEANINGS[kind] for kind in _MEANINGS if isinstance(error, kind))
        raise kind(message.format(uri=uri, reason=error.message)) from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OSError(f"cannot read {uri}: {_reason(error)}") from error


#: Of each bucket an object that this process has read before.
_readable: dict[str, str] = {}


def _check_bucket(bucket: str) -> None:
    """Raise if it is the bucket that fails, and not one of its objects.

    What could be read before must still be readable. Where nothing has been read yet, the
    bucket must at least let itself be listed. Both are asked anew for each image that fails, so
    that a permission that is lost in the middle of a job never makes it a row of dead letters.
    """
    known = _readable.get(bucket)
    if known is not None:
        try:
            _client().bucket(bucket).blob(known).reload(retry=RETRY, timeout=_TIMEOUT)
            return
        except Forbidden as error:
            raise UnusableBucket(
                f"gs://{bucket}/{known} could be read, and now it is forbidden: {error.message}; "
                f"{_NEEDED}"
            ) from error
        except NotFound:
            # It has been deleted meanwhile; this says nothing of the bucket.
            _readable.pop(bucket, None)
    try:
        next(_list(bucket, "", limit=1), None)
    except tuple(_MEANINGS) as error:
        raise UnusableBucket(str(_listing_error(bucket, error))) from error


_lock = threading.Lock()
_clients: dict[tuple[int, str | None], Any] = {}


def _client() -> Any:
    """Return the one client of this process, which all threads share.

    Making one asks for credentials, which can take seconds. A process that was forked makes its
    own, since connections cannot be shared.
    """
    key = (os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))
    with _lock:
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    try:
        # No project: nothing here is asked of one.
        client = storage.Client(project=None)
    except DefaultCredentialsError:
        # Public buckets can be read all the same; others say that the caller is anonymous.
        client = storage.Client.create_anonymous_client()
    # The default pool keeps ten connections, and throws away what more threads have opened.
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client
