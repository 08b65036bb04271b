"""Manifests: files of rows that name one image each, with columns to be carried along.

CSV, JSON lines and Parquet are read row by row, never whole. Such a file is told from a plain
list of URIs by its name.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transforms.errors import ImageError, InvalidUri, RequestError
from transforms.records import CarriedColumn, CarriedValue, ImageRef, Origin
from transforms.sources.carried_columns import convert
from transforms.sources.manifest_rows import (
    FilePart,
    Row,
    check_columns,
    cut,
    file_parts,
    numbered_rows,
    row_format,
)
from transforms.storage.file_errors import read_errors_as_request_errors
from transforms.storage.file_listing import (
    is_http,
    is_remote,
    list_files,
    local_path,
    local_uri,
    storage_path,
)

#: So many files of a pattern are looked into before the job starts.
_CHECKED_FILES = 100


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a manifest that names no image, or holds what cannot be carried along.

    It fails as a row: another row, or another input, may name the same image, which is embedded
    for those. A line of a plain list that names nothing is such a row as well.
    """

    uri: str
    """Of the image, or FILE:row N where the row has none. What is no UTF-8 is escaped: \\xe9."""
    error: ImageError


def is_manifest(location: str) -> bool:
    """Return whether an `@file` of the inputs is a manifest, and no plain list of URIs.

    Example:
        >>> is_manifest("@gs://bucket/dead_letters/*.jsonl"), is_manifest("@list.txt")
        (True, False)
    """
    return location.startswith("@") and row_format(location) is not None


def manifest_parts(location: str) -> Iterator[FilePart]:
    """Yield what `read_manifest` reads of `@file` or `@pattern`: files, or their row groups.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be listed or opened; a manifest behind an http(s) URL is none either.
        UnreadableInput: a Parquet file is damaged, or none.
    """
    for path in _files(location):
        yield from file_parts(path)


def read_manifest(
    part: FilePart, uri_column: str = "uri", columns: tuple[CarriedColumn, ...] = ()
) -> Iterator[ImageRef | BadRow]:
    """Yield a reference for each row, or what is wrong with it; no row is passed over.

    A CSV file has a header, and as many fields in each row as there. JSON lines hold one object
    each; a column that an object lacks is null in it. Files of dead letters are manifests, too,
    with the URI column "uri"; a dead letter of a bad row stays bad. A relative path is taken from
    the folder that holds the manifest.

    Raises:
        UnreadableInput: the file lacks a column, is cut or damaged, or has a quote that is never
            closed, so that rows may be hidden behind it.
        OSError: the file cannot be read.

    Example:
        >>> [ref.uri for ref in read_manifest(FilePart("photos.csv"))]  # doctest: +SKIP
    """
    folder = os.path.dirname(part.path)
    wanted = [uri_column, *(column.name for column in columns)]
    for number, row in numbered_rows(part, wanted):
        name = f"{local_uri(part.path)}:row {number}"
        uri = None
        try:
            if isinstance(row, ImageError):
                raise row
            uri = row_uri(row, uri_column, folder)
            yield ImageRef(uri, origin=Origin(carried=carried_values(row, columns)))
        except ImageError as error:
            yield BadRow(uri or name, type(error)(f"{name}: {error}"))


def row_uri(row: Row, uri_column: str, folder: str | None) -> str:
    """Return the URI that a row names.

    Args:
        row: of a manifest, or of the result of a query.
        uri_column: where the URI is.
        folder: from which a relative path is taken; None: such a path is refused.

    Raises:
        InvalidUri: there is none, or it is no text that could be one.
    """
    value = row.get(uri_column)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InvalidUri(f"the column {uri_column} is empty; it has to hold a path or a URI")
    if not isinstance(value, str):
        raise InvalidUri(
            f"the column {uri_column} holds {cut(repr(value))}, which is no text; it has to hold "
            "a path or a URI"
        )
    if folder is None and not is_remote(value) and not value.startswith(("/", "file://")):
        raise InvalidUri(
            f"{cut(repr(value))} is a relative path; write it in full, such as gs://bucket/a.jpg"
        )
    return entry_uri(value, folder or "/")


def carried_values(row: Row, columns: Sequence[CarriedColumn]) -> tuple[CarriedValue, ...]:
    """Return the values of the carried columns, as `Origin.carried` holds them.

    Raises:
        InvalidColumn: a value is none of its column's type.
    """
    return tuple(convert(row.get(column.name), column) for column in columns)


def entry_uri(entry: str, folder: str) -> str:
    """Return the URI of an entry of a list or a manifest that lies in the folder.

    Raises:
        InvalidUri: it is none: it has a zero byte, or, where it is no local path, bytes that are
            no UTF-8.

    Example:
        >>> entry_uri("a.jpg", "gs://bucket/lists"), entry_uri("/photos/../a.jpg", "/lists")
        ('gs://bucket/lists/a.jpg', '/a.jpg')
    """
    try:
        uri = _joined_uri(entry, folder)
        uri.encode()
        if "\0" in uri:
            raise ValueError("it holds a zero byte")
    except ValueError as error:
        raise InvalidUri(f"{cut(repr(entry))} names nothing that can be read: {error}") from error
    return uri


def _joined_uri(entry: str, folder: str) -> str:
    if is_remote(entry):
        return entry
    if is_remote(folder) and not entry.startswith(("/", "~", "file://")):
        return f"{folder}/{entry}"
    return local_uri(
        local_path(entry if entry.startswith(("~", "file://")) else os.path.join(folder, entry))
    )


def check_manifest(
    location: str, uri_column: str = "uri", columns: tuple[CarriedColumn, ...] = ()
) -> None:
    """Check that a manifest is there, has the columns and at least one row, before the job starts.

    Of a pattern with many files the first hundred are looked into; workers check all.

    Raises:
        RequestError: it is not there, cannot be read, lacks a column, or has no row.
    """
    wanted = [uri_column, *(column.name for column in columns)]
    has_rows = False
    count = 0
    with read_errors_as_request_errors(f"--input {location}", location.removeprefix("@")):
        for count, path in enumerate(_files(location), start=1):
            if count > _CHECKED_FILES and has_rows:
                break
            has_rows |= check_columns(path, wanted)
    if not count:
        raise RequestError(f"--input {location}: nothing matched, so there is nothing to embed")
    if not has_rows:
        raise RequestError(
            f"--input {location}: the manifest has no rows, so there is nothing to embed"
        )


def _files(location: str) -> Iterator[str]:
    location = location.removeprefix("@")
    if is_http(location):
        raise OSError("a manifest is not read over http(s); download it and name the file")
    for listed in list_files(location):
        yield storage_path(listed.ref.uri)
