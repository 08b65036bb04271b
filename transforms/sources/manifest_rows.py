"""The rows of one CSV, JSON lines or Parquet file, read one after the other and never whole."""

import csv
import difflib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import ImageError, InvalidRow, UnreadableInput
from transforms.storage.output_storage import open_file

RowFormat = Literal["csv", "json lines", "parquet"]

Row = Mapping[str, Any]

_FORMATS: Mapping[str, RowFormat] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json lines",
    ".jsonl.gz": "json lines",
    ".ndjson": "json lines",
    ".ndjson.gz": "json lines",
    ".parquet": "parquet",
}

#: A longer line or field is taken for a sign that the file is no such file, or damaged.
_LONGEST_LINE = 2**26

_ROWS_OF_A_BATCH = 8192

#: What `WriteDeadLetters` writes of every failure.
_DEAD_LETTER = {"uri", "stage", "error", "message", "failed_at"}

#: So many rows of JSON lines, which have no header, are looked at for their columns.
_CHECKED_ROWS = 1000


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file, or one row group of a Parquet file: what one worker reads."""

    path: str
    row_group: int | None = None
    first_row: int = 1


def row_format(path: str) -> RowFormat | None:
    """Return the format that the name of a file or a pattern tells, or None.

    Example:
        >>> row_format("gs://bucket/dead_letters/*.jsonl"), row_format("list.txt")
        ('json lines', None)
    """
    name = path.lower()
    return next((found for end, found in _FORMATS.items() if name.endswith(end)), None)


def file_parts(path: str) -> Iterator[FilePart]:
    """Yield what can be read of a file at once by several workers.

    Raises:
        UnreadableInput: a Parquet file is damaged, or none.
        OSError: it cannot be opened.
    """
    if row_format(path) != "parquet":
        yield FilePart(path)
        return
    with _opened_parquet(path) as file:
        first_row = 1
        for row_group in range(file.metadata.num_row_groups):
            yield FilePart(path, row_group, first_row)
            first_row += file.metadata.row_group(row_group).num_rows


def check_columns(path: str, wanted: Sequence[str]) -> bool:
    """Check that a file has the columns; return whether it has a row.

    JSON lines have no header, so their first thousand rows are looked at.

    Raises:
        UnreadableInput: a column is not there, or the file is damaged.
        OSError: it cannot be read.
    """
    if row_format(path) == "parquet":
        with _opened_parquet(path) as file:
            _require_columns(wanted, file.schema_arrow.names, path)
            return bool(file.metadata.num_rows)
    rows = numbered_rows(FilePart(path), wanted)
    if row_format(path) == "csv":
        return next(rows, None) is not None
    any_row = False
    found: dict[str, None] = {}
    for _, row in itertools.islice(rows, _CHECKED_ROWS):
        any_row = True
        if isinstance(row, Mapping):
            found.update(dict.fromkeys(row))
    if found:
        _require_columns(wanted, list(found), path)
    return any_row


def numbered_rows(part: FilePart, wanted: Iterable[str]) -> Iterator[tuple[int, Row | ImageError]]:
    """Yield each row with its number, from 1, or what is wrong with it.

    - CSV: the header is no row, empty lines are none, and a row has as many fields as the header.
    - JSON lines: the number is that of the line; empty lines are no rows. A dead letter is the
      row that failed: its URI as "uri", and what lies under its "carried".
    - What is no UTF-8 comes as surrogate escapes, as in the names of local files.

    Raises:
        UnreadableInput: a wanted column is not there or there twice, or the file is damaged, or a
            quote is never closed, so that rows may be hidden behind it.
        OSError: the file cannot be read.
    """
    found = row_format(part.path)
    try:
        if found == "parquet":
            yield from _parquet_rows(part, wanted)
        elif found == "csv":
            with _opened(part.path) as file:
                yield from _csv_rows(file, part.path, wanted)
        elif found == "json lines":
            with _opened(part.path) as file:
                yield from _json_rows(file, part.path)
        else:
            # A folder whose name ends in .csv, say.
            raise UnreadableInput(f"{part.path} is no CSV, JSON lines or Parquet file")
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid) as error:
        raise UnreadableInput(f"{part.path} is cut or damaged: {error}") from error


def cut(text: str, length: int = 80) -> str:
    """Return a text as a message quotes it: not too much of it, and valid UTF-8."""
    shown = text if len(text) <= length else text[:length] + "..."
    return shown.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    with open_file(path) as stored:
        if path.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=stored) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield stored


def _csv_rows(
    file: BinaryIO, path: str, wanted: Iterable[str]
) -> Iterator[tuple[int, Row | ImageError]]:
    # Of the whole process; the default would refuse an embedded document.
    csv.field_size_limit(_LONGEST_LINE)
    lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    # Strictly, because a quote that is never closed would swallow the rest of the file.
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise UnreadableInput(f"the header of {path} is no CSV: {error}") from error
    if header is None:
        raise UnreadableInput(f"{path} is empty; its first row has to name the columns")
    _require_columns(wanted, header, path)
    for number in itertools.count(1):
        line = reader.line_num
        try:
            while (fields := next(reader, None)) == []:
                line = reader.line_num
        except csv.Error as error:
            if reader.line_num > line + 1:
                raise UnreadableInput(
                    f"{path} is no CSV from its line {line + 1} on: {error}; look for a quote that "
                    "is not closed there"
                ) from error
            yield number, InvalidRow(f"line {reader.line_num} is no CSV: {error}")
            continue
        if fields is None:
            return
        if len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            problem = f"ends a row of {len(fields)} fields, but the header has {len(header)}"
            yield number, InvalidRow(f"line {reader.line_num} {problem}")


def _json_rows(file: BinaryIO, path: str) -> Iterator[tuple[int, Row | ImageError]]:
    for number in itertools.count(1):
        line = file.readline(_LONGEST_LINE)
        if not line:
            return
        if len(line) == _LONGEST_LINE:
            raise UnreadableInput(
                f"line {number} of {path} has more than {_LONGEST_LINE:,} bytes; JSON lines hold "
                "one object a line"
            )
        text = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n\t ")
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, InvalidRow(f"this is no JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, _failed_row(row) if row.keys() >= _DEAD_LETTER else row
        else:
            yield number, InvalidRow(f"{cut(text)} is no JSON object")


def _failed_row(letter: Row) -> Row | ImageError:
    """Return the row that a dead letter is about."""
    if letter["stage"] in ("ListImages", "QueryImages"):
        return InvalidRow(
            f"this is the dead letter of a bad row ({cut(str(letter['message']), 400)}), which "
            "has to be corrected where it came from"
        )
    carried = letter.get("carried")
    return {**(carried if isinstance(carried, dict) else {}), "uri": letter["uri"]}


@contextmanager
def _opened_parquet(path: str) -> Iterator[pq.ParquetFile]:
    with open_file(path) as stored:
        try:
            file = pq.ParquetFile(stored)
        except pa.ArrowInvalid as error:
            raise UnreadableInput(f"{path} is no Parquet file: {error}") from error
        yield file


def _parquet_rows(part: FilePart, wanted: Iterable[str]) -> Iterator[tuple[int, Row | ImageError]]:
    names = list(dict.fromkeys(wanted))
    with _opened_parquet(part.path) as file:
        _require_columns(names, file.schema_arrow.names, part.path)
        number = part.first_row
        for batch in file.iter_batches(_ROWS_OF_A_BATCH, [part.row_group], names):
            values = [column_values(batch.column(name)) for name in names]
            for row in zip(*values, strict=True):
                yield number, dict(zip(names, row, strict=True))
                number += 1


def column_values(column: pa.Array) -> list[Any]:
    """Return the values of a column, as Arrow's own scalars where Python has no such value.

    A year 20000 and a nanosecond are such; `carried_columns.convert` says so of the row with one.
    """
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        return list(column)
    return values


def _require_columns(wanted: Iterable[str], present: Sequence[str], path: str) -> None:
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name.lower(), [each.lower() for each in present], 1)
            nearest = next((each for each in present if [each.lower()] == near), None)
            shown = ", ".join(map(repr, present[:50])) + (", ..." if len(present) > 50 else "")
            raise UnreadableInput(
                f"{path} has no column {name!r}"
                + (f"; did you mean {nearest!r}?" if nearest else ";")
                + f" it has {cut(shown, 1000)}"
            )
        if present.count(name) > 1:
            raise UnreadableInput(f"{path} has the column {name!r} more than once; rename one")
