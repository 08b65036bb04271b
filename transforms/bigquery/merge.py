"""From the staging table of a run into the table of embeddings: merge, tidy up, prune, drop.

Every part may be run again at any time, by this worker or by another one, and none of them reads
what an earlier part has dropped: a statement under a fixed id that has run is not run again.
"""

from collections.abc import Sequence

from google.cloud.bigquery import SchemaField

from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.load import (
    create_staging,
    gone_table,
    job_id,
    load_files,
    run_jobs,
    staging_table,
)
from transforms.bigquery.sql import (
    count_duplicates_sql,
    count_older_sql,
    merge_sql,
    prune_sql,
    remove_duplicates_sql,
)
from transforms.bigquery.table import set_parameters
from transforms.errors import JobError
from transforms.formats.embedding_table import Provenance

_GONE_SCHEMA = (
    SchemaField("uri", "STRING"),
    SchemaField("run_id", "STRING"),
    SchemaField("embedded_at", "TIMESTAMP"),
)

# Each round finds only what yet another run has inserted since the last one.
_TIDY_ROUNDS = 20


def merge_run(
    table: TableName,
    run_id: str,
    provenance: Provenance,
    columns: Sequence[str],
    gone_files: Sequence[str] | None = None,
) -> None:
    """Take the rows of a run into the table, each URI of the set once, the newest row of it.

    Args:
        table: of the embeddings.
        run_id: of the run, whose rows lie in its staging table.
        provenance: of the rows.
        columns: of the rows.
        gone_files: Parquet files on gs:// with the rows of images that are gone, as the run has
            seen them: the columns uri, run_id and embedded_at. They are deleted, and so are
            older ones of these URIs. None: nothing is deleted.

    Raises:
        JobError: BigQuery fails; the message says what to grant or change.
    """
    jobs = run_jobs(table, run_id)
    staging = staging_table(table, run_id)
    _merge(jobs, table, run_id, provenance, columns)
    remove_duplicates(jobs, table, run_id, provenance)
    if gone_files is not None:
        _prune(jobs, table, run_id, provenance, gone_files)
    jobs.delete_table(staging)
    jobs.delete_table(gone_table(table, run_id))


def _merge(
    jobs: Jobs, table: TableName, run_id: str, provenance: Provenance, columns: Sequence[str]
) -> None:
    """One statement, unless an overlapping run inserts an older row at the last moment.

    What may update a table is billed with all its vectors, whether it updates a row or not, so it
    is left to the runs that have rows to replace.
    """
    staging = staging_table(table, run_id)
    parameters = set_parameters(provenance)

    def merge(purpose: str, *, replace: bool) -> None:
        statement = merge_sql(table.sql, staging.sql, columns, replace=replace)
        jobs.run_query(statement, parameters, job_id=job_id(table, run_id, purpose))

    def has_older_rows(purpose: str) -> bool:
        # Under a fixed id, so that the answer is there also when the staging table is not.
        [counted] = jobs.query_rows(
            count_older_sql(table.sql, staging.sql),
            parameters,
            job_id=job_id(table, run_id, purpose),
        )
        return bool(counted["older"])

    if not has_older_rows("older_before"):
        merge("insert", replace=False)
        if not has_older_rows("older_after"):
            return
    merge("merge", replace=True)


def remove_duplicates(jobs: Jobs, table: TableName, run_id: str, provenance: Provenance) -> None:
    """Leave the newest row of each URI of the set, whichever run wrote it.

    Two merges at the same time do not see each other's inserts, and BigQuery lets both pass
    (https://cloud.google.com/bigquery/docs/data-manipulation-language#dml-limitations). Whichever
    of them looks last, after its own merge, sees the rows of both.
    """
    parameters = set_parameters(provenance)
    for number in range(_TIDY_ROUNDS):
        [counted] = jobs.query_rows(count_duplicates_sql(table.sql), parameters)
        if not counted["duplicated"]:
            return
        found = jobs.get_table(table)
        if found is None:
            break
        jobs.run_query(
            remove_duplicates_sql(table.sql, [field.name for field in found.schema]),
            parameters,
            job_id=job_id(table, run_id, f"tidy_{number}"),
        )
    raise JobError(
        f"{table} has {counted['duplicated']:,} URIs with several rows even after {_TIDY_ROUNDS} "
        "attempts to remove them; stop what else writes into it, and run the job again"
    )


def _prune(
    jobs: Jobs,
    table: TableName,
    run_id: str,
    provenance: Provenance,
    files: Sequence[str],
) -> None:
    if not files:
        return
    gone = gone_table(table, run_id)
    create_staging(jobs, gone, _GONE_SCHEMA)
    result = load_files(jobs, gone, run_id, files)
    if result.refused:
        raise JobError(f"BigQuery refuses URIs to prune: {result.refused[0].reason}")
    jobs.run_query(
        prune_sql(table.sql, gone.sql),
        set_parameters(provenance),
        job_id=job_id(table, run_id, "prune"),
    )
