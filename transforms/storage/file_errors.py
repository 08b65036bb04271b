"""What goes wrong when a file is read that the command line names, as an error of the request."""

from collections.abc import Iterator
from contextlib import contextmanager

from transforms.errors import JobError, RequestError
from transforms.storage.file_listing import is_remote


@contextmanager
def read_errors_as_request_errors(named: str, place: str) -> Iterator[None]:
    """Within the block, an error in reading becomes a RequestError that says what was named.

    Programming errors stay what they are where the place is local. The clients of the clouds raise
    errors of many kinds, so that of remote places every error counts.

    Args:
        named: how the command line names the place, such as "--input gs://bucket/photos".
        place: the path or URL that is read.

    Raises:
        RequestError: the place is not there, or cannot be listed or read.

    Example:
        >>> with read_errors_as_request_errors("--input a.csv", "a.csv"):
        ...     raise PermissionError(13, "Permission denied", "a.csv")
        Traceback (most recent call last):
        ...
        transforms.errors.RequestError: --input a.csv: this user may not read a.csv
    """
    kinds = (Exception,) if is_remote(place) else (OSError, ValueError)
    try:
        yield
    except RequestError:
        raise
    except JobError as error:
        raise RequestError(f"{named}: {error}") from error
    except FileNotFoundError as error:
        raise RequestError(f"{named}: {error.strerror or error}") from error
    except PermissionError as error:
        raise RequestError(f"{named}: this user may not read {error.filename or 'it'}") from error
    except kinds as error:
        raise RequestError(f"{named}: it cannot be read: {error}") from error
