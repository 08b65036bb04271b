"""Whether BigQuery would let a run write into a table, asked before the run begins.

Dry runs change nothing, cost nothing, and are refused for the same permissions as the statements
themselves (https://cloud.google.com/bigquery/docs/running-queries#dry-run). Whoever asks is the
account of the launcher; workers may run as another one.
"""

import contextlib
from collections.abc import Sequence

from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter, SchemaField

from transforms.bigquery.client import Jobs, Parameter, TableName
from transforms.bigquery.load import create_staging, run_jobs, staging_table
from transforms.bigquery.rows import open_streams
from transforms.bigquery.schema import RUNS_SCHEMA
from transforms.bigquery.sql import merge_sql, record_run_sql
from transforms.bigquery.table import runs_table, set_parameters
from transforms.errors import JobError
from transforms.formats.embedding_table import Provenance


def check_run_access(
    table: TableName, run_id: str, schema: Sequence[SchemaField], *, reads: bool
) -> None:
    """Find out whether a run may do all that it is going to do in a dataset.

    A table like the staging table is made for it, and deleted again. The staging table itself
    is made when its rows are there, since it expires.

    Args:
        table: as `prepare_table` left it.
        run_id: of the run.
        schema: of its rows.
        reads: whether the run reads the table.

    Raises:
        JobError: a permission is missing; the message says what to grant.
    """
    jobs = run_jobs(table, run_id)
    probe = staging_table(table, run_id).sibling("_check")
    create_staging(jobs, probe, schema)
    try:
        check_merge(jobs, table, probe, [field.name for field in schema])
        check_recording(jobs, runs_table(table))
        if reads:
            check_reading(table)
    except JobError:
        # What keeps it there as well says nothing new, and it expires.
        with contextlib.suppress(JobError):
            jobs.delete_table(probe)
        raise
    jobs.delete_table(probe)


def check_merge(jobs: Jobs, table: TableName, staging: TableName, columns: Sequence[str]) -> None:
    """Find out whether rows may be merged from one table into another.

    Raises:
        JobError: they may not; the message says what to grant.
    """
    statement = merge_sql(table.sql, staging.sql, columns, replace=True)
    dry_run(jobs, statement, set_parameters(Provenance("", "", "")))


def check_recording(jobs: Jobs, runs: TableName) -> None:
    """Find out whether a run may be recorded in a table of runs.

    Raises:
        JobError: it may not; the message says what to grant.
    """
    statement = record_run_sql(runs.sql, [field.name for field in RUNS_SCHEMA])
    nothing = [ScalarQueryParameter(field.name, field.field_type, None) for field in RUNS_SCHEMA]
    dry_run(jobs, statement, nothing)


def check_reading(table: TableName) -> None:
    """Find out whether a table may be read through the Storage Read API.

    Raises:
        JobError: it may not; the message says what to grant.
    """
    open_streams(table, ["uri"])


def dry_run(jobs: Jobs, sql: str, parameters: Sequence[Parameter] = ()) -> None:
    """Let BigQuery check a statement, and whether it may be run, without running it.

    Raises:
        JobError: it may not; the message says what to grant or change.
    """
    jobs.run_query(sql, parameters, config=QueryJobConfig(dry_run=True))
