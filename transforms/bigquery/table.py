"""The table of embeddings in BigQuery, made or checked before a job writes into it."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.cloud.bigquery import ScalarQueryParameter, SchemaField, Table, TimePartitioning

from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.errors import request_errors
from transforms.bigquery.schema import RUNS_SCHEMA, schema_problems, table_schema
from transforms.bigquery.sql import KEY, held_sets_sql, sets_sql, width_sql
from transforms.errors import RequestError
from transforms.formats.embedding_table import SET_COLUMNS, Provenance
from transforms.records import CarriedColumn, OutputLayout

#: BigQuery keeps the rows of one model together, in the order of their URIs.
CLUSTERING = ("model_fingerprint", "uri")

_COLUMNS_OF_A_SET = (*KEY, "model", "embedded_at", "embedding")

SetKey = tuple[str, ...]
"""Fingerprints of the model and of the preprocessing, and the precision."""


@dataclass(frozen=True, slots=True)
class VectorSet:
    """The rows of a table that one model made of one preprocessing contract in one precision."""

    provenance: Provenance
    row_count: int
    embedding_width: int
    """Of the newest row; 0 where no embedding was asked for."""


def prepare_table(
    table: TableName,
    layout: OutputLayout,
    columns: Sequence[CarriedColumn],
    provenance: Provenance,
    *,
    allow_other_models: bool = False,
) -> None:
    """Make the table and that of its runs; where they are there, check that a job's rows fit.

    Writes no row. A new table is partitioned by the day of `embedded_at` and clustered by
    `CLUSTERING`; one that is there may be laid out in any way.

    Args:
        table: where the rows go.
        layout: what is written of each vector.
        columns: what goes along from the input.
        provenance: of the rows that the job writes.
        allow_other_models: also where the table holds rows, and all of them are another model's,
            another preprocessing's or of another precision.

    Raises:
        RequestError: the dataset is not there, a permission is missing, the columns do not fit,
            or the table holds another model's vectors; the message says what to do.

    Example:
        >>> prepare_table(table, layout, (), provenance)  # doctest: +SKIP
    """
    with request_errors():
        jobs = Jobs(table.project)
        jobs = Jobs(table.project, jobs.dataset_location(table))
        _make_or_check(jobs, table, table_schema(layout, columns), "embedded_at", CLUSTERING)
        _make_or_check(jobs, runs_table(table), RUNS_SCHEMA, "started_at")
    if not allow_other_models:
        _refuse_other_models(table, provenance)


def runs_table(table: TableName) -> TableName:
    """Return the name of the table with one row for each run that wrote into a table."""
    return table.sibling("_runs")


def table_sets(table: TableName) -> list[VectorSet]:
    """Return the sets of vectors in a table, the largest first; none where there is no table.

    Reads the columns that name the sets, the URIs and the times, and one vector of each set.

    Raises:
        RequestError: the dataset is not there, a permission is missing, or the table is none of
            embeddings.
    """
    with request_errors():
        jobs = _jobs_of_embeddings(table)
        if jobs is None:
            return []
        return [
            VectorSet(
                _provenance(row),
                row["row_count"],
                _embedding_width(jobs, table, row),
            )
            for row in jobs.query_rows(sets_sql(table.sql))
        ]


def held_sets(table: TableName) -> frozenset[SetKey]:
    """Return which sets a table has rows of; none where there is no table.

    Reads only the three columns that name the sets.

    Raises:
        RequestError: as `table_sets`.
    """
    with request_errors():
        jobs = _jobs_of_embeddings(table)
        rows = jobs.query_rows(held_sets_sql(table.sql)) if jobs else ()
    return frozenset(tuple(row[name] for name in SET_COLUMNS) for row in rows)


def set_parameters(provenance: Provenance) -> list[ScalarQueryParameter]:
    """Return the query parameters that name a set in the texts of `bigquery_sql`."""
    return [
        ScalarQueryParameter(name, "STRING", value)
        for name, value in zip(SET_COLUMNS, provenance.set_key, strict=True)
    ]


def _jobs_of_embeddings(table: TableName) -> Jobs | None:
    """Return what runs jobs where the table lies; None if there is no table."""
    jobs = Jobs(table.project)
    found = jobs.get_table(table)
    if found is None:
        return None
    there = {field.name.lower() for field in found.schema}
    missing = [name for name in _COLUMNS_OF_A_SET if name not in there]
    if missing:
        raise RequestError(
            f"{table} is no table of embeddings: it has no column {', '.join(missing)}; name "
            "another table"
        )
    return Jobs(table.project, jobs.dataset_location(table))


def _make_or_check(
    jobs: Jobs,
    table: TableName,
    wanted: Sequence[SchemaField],
    day_of: str,
    clustering: Sequence[str] | None = None,
) -> None:
    fresh = Table(table.reference, wanted)
    fresh.time_partitioning = TimePartitioning(field=day_of)
    fresh.clustering_fields = clustering
    # Also a table that another run has made this very moment is checked.
    found = jobs.get_table(table) or jobs.create_table(fresh)
    if found.table_type not in (None, "TABLE"):
        raise RequestError(f"{table} is a {found.table_type}, not a table; name another one")
    problems = list(schema_problems(str(table), wanted, found.schema))
    if problems:
        listed = "; ".join(problem.says for problem in problems)
        statements = "".join(f"\n  {line}" for problem in problems for line in problem.mended_by)
        raise RequestError(
            f"the columns of {table} do not fit: {listed}. Name another table, or change this one "
            f"with:{statements}"
        )


def _refuse_other_models(table: TableName, provenance: Provenance) -> None:
    sets = table_sets(table)
    if not sets or any(found.provenance.set_key == provenance.set_key for found in sets):
        return
    listed = "; ".join(
        f"{found.row_count:,} rows of {found.provenance.in_words()}" for found in sets
    )
    raise RequestError(
        f"{table} holds {listed}; this job would write those of {provenance.in_words()}. Vectors "
        "of two models, contracts or precisions cannot be compared: name another table, or let "
        "both stand side by side with --allow-other-models"
    )


def _provenance(row: dict[str, str]) -> Provenance:
    return Provenance(
        row["model"], row["model_fingerprint"], row["preprocess_fingerprint"], row["precision"]
    )


def _embedding_width(jobs: Jobs, table: TableName, row: dict[str, str]) -> int:
    parameters = [
        *set_parameters(_provenance(row)),
        ScalarQueryParameter("uri", "STRING", row["newest_uri"]),
        ScalarQueryParameter("embedded_at", "TIMESTAMP", row["newest"]),
    ]
    # Nothing, where another run has replaced the row meanwhile.
    found = jobs.query_rows(width_sql(table.sql), parameters)
    return int(found[0]["width"]) if found else 0
