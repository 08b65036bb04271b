"""Loads the Parquet files of a run into a staging table of BigQuery, each row once."""

import datetime
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from google.cloud.bigquery import (
    LoadJobConfig,
    ParquetOptions,
    SchemaField,
    SourceFormat,
    Table,
    WriteDisposition,
)

from transforms.bigquery.client import Jobs, TableName
from transforms.errors import JobError, RefusedData
from transforms.formats.row_files import read_row_file, write_row_file

#: https://cloud.google.com/bigquery/quotas#load_jobs
MAX_FILES_PER_JOB = 10_000

#: So many loads in a row may be refused. Where single rows are to blame, about every second half
#: of what is refused is taken, so that so many in a row say that it is not the rows.
MAX_REFUSED_IN_A_ROW = 250

#: Of one run in all. One bad row among a million costs about forty, twenty of them refused.
#: 1,500 jobs may load into one table a day, of which those that fail count as well:
#: https://cloud.google.com/bigquery/quotas#load_jobs
MAX_LOAD_JOBS = 1_400

_STAGING_LIFE = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One row that BigQuery does not take."""

    row: pa.Table
    """Of one row."""
    reason: str


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of the rows of some files."""

    row_count: int
    """Rows in the staging table."""
    refused: tuple[RefusedRecord, ...]


def staging_table(table: TableName, run_id: str) -> TableName:
    """Return the name of the table that holds the rows of a run until they are merged."""
    return table.sibling(f"_staging_{run_id.replace('-', '_')}")


def gone_table(table: TableName, run_id: str) -> TableName:
    """Return the name of the table that holds the URIs that a run found gone."""
    return table.sibling(f"_gone_{run_id.replace('-', '_')}")


def run_jobs(table: TableName, run_id: str) -> Jobs:
    """Return what runs the jobs of a run, where the table lies."""
    return Jobs(table.project, Jobs(table.project).dataset_location(table), run_id)


def job_id(table: TableName, run_id: str, purpose: str, *what: str) -> str:
    """Return the id of a job: the same for the same run, table, purpose and things."""
    digest = hashlib.sha256("\n".join((str(table), *what)).encode()).hexdigest()[:16]
    return f"embed_images_{run_id}_{purpose}_{digest}"


def create_staging(jobs: Jobs, staging: TableName, schema: Sequence[SchemaField]) -> None:
    """Make a staging table, unless it is there. It goes by itself after a day."""
    table = Table(staging.reference, schema)
    table.expires = datetime.datetime.now(datetime.UTC) + _STAGING_LIFE
    jobs.create_table(table)


def load_files(
    jobs: Jobs,
    staging: TableName,
    run_id: str,
    files: Sequence[str],
) -> LoadResult:
    """Load all rows of some Parquet files that BigQuery takes; find those that it refuses.

    Called again, it finds its jobs done and gives the same answer. A load job takes all of its
    files or nothing. What it refuses for its data is loaded in halves, by files and then by rows,
    until the refused rows are alone.

    Args:
        jobs: of the run.
        staging: a table that only this run writes.
        run_id: of the run.
        files: on gs://, in any number and order; parts of them may be written beside them.

    Raises:
        JobError: BigQuery fails, or refuses so much that the rows are not to blame, or that they
            cannot be found with as many jobs as it allows.
    """
    ordered = sorted(files)
    pieces = deque(
        _Piece(tuple(ordered[start : start + MAX_FILES_PER_JOB]))
        for start in range(0, len(ordered), MAX_FILES_PER_JOB)
    )
    refused: list[RefusedRecord] = []
    row_count = loads = refused_in_a_row = 0
    last_reason = ""
    while pieces:
        if loads == MAX_LOAD_JOBS:
            raise JobError(
                f"BigQuery has refused {len(refused):,} rows for {staging} so far, and {loads:,} "
                f"loads were not enough to find all of them; the last reason was: {last_reason}"
            )
        piece = pieces.popleft()
        loads += 1
        try:
            row_count += _load(jobs, staging, run_id, piece.paths())
            refused_in_a_row = 0
        except RefusedData as error:
            last_reason = str(error)
            refused_in_a_row += 1
            if refused_in_a_row > MAX_REFUSED_IN_A_ROW:
                raise JobError(
                    f"BigQuery has refused {refused_in_a_row} loads into {staging} in a row; the "
                    f"last reason was: {last_reason}"
                ) from error
            halves = piece.halves()
            if not halves:
                refused.append(RefusedRecord(piece.read(), last_reason))
            pieces.extendleft(reversed(halves))
    return LoadResult(row_count, tuple(refused))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some files, or some rows of one file."""

    files: tuple[str, ...]
    rows: tuple[int, int] | None = None
    """First row and the one behind the last; None: all."""

    def paths(self) -> list[str]:
        if self.rows is None:
            return list(self.files)
        start, stop = self.rows
        [file] = self.files
        path = f"{file.removesuffix('.parquet')}-rows-{start}-{stop}.parquet"
        write_row_file(path, self.read())
        return [path]

    def halves(self) -> "list[_Piece]":
        """Nothing where there is but one row."""
        if len(self.files) > 1:
            middle = len(self.files) // 2
            return [_Piece(self.files[:middle]), _Piece(self.files[middle:])]
        start, stop = self.rows or (0, self.read().num_rows)
        if stop - start < 2:
            return []
        middle = (start + stop) // 2
        return [_Piece(self.files, (start, middle)), _Piece(self.files, (middle, stop))]

    def read(self) -> pa.Table:
        """The rows of the one file."""
        [file] = self.files
        try:
            rows = read_row_file(file)
        except (pa.ArrowException, OSError) as error:
            raise JobError(
                f"the file {file}, which BigQuery refuses, cannot be read: {error}"
            ) from error
        start, stop = self.rows or (0, rows.num_rows)
        return rows.slice(start, stop - start)


def _load(jobs: Jobs, staging: TableName, run_id: str, files: Sequence[str]) -> int:
    lists = ParquetOptions()
    # Else a repeated column would become a record of records.
    lists.enable_list_inference = True
    config = LoadJobConfig(
        source_format=SourceFormat.PARQUET,
        # Nothing is truncated: under its fixed id a job loads once, however often it is asked for.
        write_disposition=WriteDisposition.WRITE_APPEND,
        parquet_options=lists,
    )
    job = jobs.run_load(files, staging, config, job_id=job_id(staging, run_id, "load", *files))
    return int(job.output_rows or 0)
