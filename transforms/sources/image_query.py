"""A BigQuery query, or a table, whose rows name images: run once, before the job starts.

The rows go into a table of their own, from which the workers read them. So the query is paid for
once, whatever is tried again later, and the number of its rows is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
from google.cloud.bigquery import QueryJobConfig, SchemaField

from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.errors import request_errors
from transforms.errors import ImageError, RequestError
from transforms.records import CarriedColumn, ImageRef, Origin
from transforms.sources.manifest import BadRow, carried_values, row_uri
from transforms.sources.manifest_rows import column_values

#: How long the rows are kept for the workers.
LIFE_DAYS = 2


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The rows of a query as a table, whose columns are `uri_column` and the carried ones."""

    table: TableName
    """Made for one run; it goes by itself after `LIFE_DAYS`."""
    row_count: int
    uri_column: str = "uri"
    columns: tuple[CarriedColumn, ...] = ()


def table_query(table: TableName) -> str:
    """Return the query for all rows of a table or a view."""
    return f"SELECT * FROM {table.sql}"


def rows_table(dataset_of: TableName, run_id: str) -> TableName:
    """Return the name of the table for the rows of a run, in the dataset of another table."""
    name = f"embed_images_input_{run_id.replace('-', '_')}"
    return TableName(dataset_of.project, dataset_of.dataset, name)


def run_image_query(
    query: str,
    result: TableName,
    run_id: str,
    uri_column: str = "uri",
    columns: tuple[CarriedColumn, ...] = (),
) -> QueryRows:
    """Run a query once, and keep of its rows what the job needs.

    Before it is run, and paid for, a dry run tells whether it is right and has the columns. Called
    again for the same run, it finds the query done.

    Args:
        query: one SELECT statement of GoogleSQL, such as `table_query` returns.
        result: where the rows go, in a dataset of the same location as what the query reads. Its
            project pays.
        run_id: of the run.
        uri_column: of the query's columns that with the URIs, a STRING.
        columns: those that are carried along.

    Raises:
        RequestError: the query is wrong or not allowed, lacks a column, or gives no URI.

    Example:
        >>> table = TableName.parse("project-1.photos.embeddings")
        >>> rows = run_image_query("SELECT uri FROM photos.all", rows_table(table, run_id), run_id)
        ... # doctest: +SKIP
    """
    with request_errors():
        jobs = Jobs(result.project)
        jobs = Jobs(result.project, jobs.dataset_location(result), run_id)
        names, _ = _try_query(jobs, query, uri_column, columns)
        # The newline ends a comment with which the query may end.
        made = f"SELECT {names} FROM (\n{_without_end(query)}\n)"
        jobs.run_query(
            f"CREATE OR REPLACE TABLE {result.sql} OPTIONS (expiration_timestamp="
            f"TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {LIFE_DAYS} DAY)) AS {made}",
            job_id=f"embed_images_{run_id}_input",
        )
        [count] = jobs.query_rows(
            f"SELECT COUNT(*) AS row_count, COUNTIF(TRIM(`{uri_column}`) != '') AS uri_count "
            f"FROM {result.sql}"
        )
        if not count["uri_count"]:
            jobs.delete_table(result)
    if not count["row_count"]:
        raise RequestError("the query gives no rows, so there is nothing to embed")
    if not count["uri_count"]:
        raise RequestError(
            f"the query gives no URIs: its column {uri_column!r} is empty in all "
            f"{count['row_count']:,} rows; name another column with input.uri_column"
        )
    return QueryRows(result, int(count["row_count"]), uri_column, columns)


def check_image_query(
    jobs: Jobs, query: str, uri_column: str = "uri", columns: tuple[CarriedColumn, ...] = ()
) -> int:
    """Check a query by a dry run, which costs nothing; return how many bytes it would read.

    Args:
        jobs: in the location of what the query reads.
        query: as that of `run_image_query`, whose first step this is.
        uri_column: likewise.
        columns: likewise.

    Raises:
        RequestError: the query is wrong or not allowed, or lacks a column.
    """
    with request_errors():
        _, byte_count = _try_query(jobs, query, uri_column, columns)
    return byte_count


def _try_query(
    jobs: Jobs, query: str, uri_column: str, columns: Sequence[CarriedColumn]
) -> tuple[str, int]:
    """Return what to select of a query's columns, and how many bytes it would read."""
    dry_run = jobs.run_query(_without_end(query), config=QueryJobConfig(dry_run=True))
    selected = _select_list(dry_run.schema or (), uri_column, columns)
    return selected, int(dry_run.total_bytes_processed or 0)


def _without_end(query: str) -> str:
    return query.strip().rstrip(";").rstrip()


def query_refs(batch: pa.RecordBatch, rows: QueryRows) -> Iterator[ImageRef | BadRow]:
    """Yield a reference for each row of a batch, or what is wrong with it; no row is passed over.

    A row needs a full URI or an absolute path.
    """
    names = [rows.uri_column, *(column.name for column in rows.columns)]
    values = [column_values(batch.column(name)) for name in names]
    for row in map(dict, (zip(names, each, strict=True) for each in zip(*values, strict=True))):
        yield _query_ref(row, rows)


def _query_ref(row: Mapping[str, Any], rows: QueryRows) -> ImageRef | BadRow:
    uri = None
    try:
        uri = row_uri(row, rows.uri_column, folder=None)
        return ImageRef(uri, origin=Origin(carried=carried_values(row, rows.columns)))
    except ImageError as error:
        return BadRow(uri or f"bq://{rows.table}", type(error)(f"a row of the query: {error}"))


def _select_list(
    schema: Sequence[SchemaField], uri_column: str, columns: Sequence[CarriedColumn]
) -> str:
    """Return what to select of a query's columns.

    Raises:
        RequestError: it lacks one, or the URI is no string.
    """
    # BigQuery's names differ in more than case.
    present = {field.name.lower(): field for field in schema}
    wanted = dict.fromkeys((uri_column, *(column.name for column in columns)))
    for name in wanted:
        if name.lower() not in present:
            near = get_close_matches(name.lower(), present, 1)
            raise RequestError(
                f"the query gives no column {name!r}"
                + (f"; did you mean {present[near[0]].name!r}?" if near else ";")
                + f" It gives {', '.join(repr(field.name) for field in schema)}"
            )
    uri = present[uri_column.lower()]
    if uri.field_type != "STRING" or uri.mode == "REPEATED":
        kind = f"ARRAY<{uri.field_type}>" if uri.mode == "REPEATED" else uri.field_type
        raise RequestError(
            f"the query's column {uri.name!r} is {kind}, but URIs are STRING; select another "
            "column, or name it with input.uri_column"
        )
    return ", ".join(f"`{present[name.lower()].name}` AS `{name}`" for name in wanted)
