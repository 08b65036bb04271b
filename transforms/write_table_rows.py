"""`WriteTableRows`: the embeddings of a run as rows of its staging table in BigQuery."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations

from transforms.bigquery.client import TableName
from transforms.bigquery.load import create_staging, load_files, run_jobs, staging_table
from transforms.bigquery.schema import table_schema
from transforms.errors import ImageError, RefusedRow
from transforms.formats.embedding_rows import RowStamp, embedding_rows, rows_schema
from transforms.formats.row_files import RowFile, rows_at_once
from transforms.records import Embedding, Failure
from transforms.step_parts.attempt_each import FAILED, make_failure

STAGE = "WriteTableRows"
_FILES = "files"
_LOADED = "loaded"

# What says that a value is none of its column's; half of a surrogate pair is no text.
_NO_ROW = (ImageError, pa.ArrowInvalid, UnicodeError, OverflowError)


class TableOutcome(NamedTuple):
    """What became of the embeddings of a run."""

    loaded: beam.PCollection[int]
    """One element: how many rows the staging table has."""
    failed: beam.PCollection[Failure]
    """Of each image whose row could not be made, or that BigQuery refused."""


@dataclass(eq=False)
class WriteTableRows(beam.PTransform):
    """Write the rows to Parquet files and load them into the staging table of the run.

    The table itself is not touched: that is for `MergeRows`, once all counts are right. Every
    bundle writes files under names of its own and hands on the names, so what a bundle wrote that
    failed half-way is never loaded. The load jobs have fixed ids: a step that is tried again finds
    them done. Rows that BigQuery refuses are searched for, and become failures.

    Raises (in the worker, which fails the job):
        JobError: BigQuery fails, a permission was lost, or so many rows are refused that they are
            not to blame.

    Example:
        >>> rows = embeddings | WriteTableRows(table, stamp, "gs://temp/run/rows")  # doctest: +SKIP
    """

    table: TableName
    """As `prepare_table` left it."""
    stamp: RowStamp
    """Of the run, whose id names the staging table."""
    folder: str
    """On gs://, of this run alone."""

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, embeddings: beam.PCollection[Embedding]) -> TableOutcome:
        """Return the number of loaded rows, and the failures."""
        written = embeddings | "WriteFiles" >> beam.ParDo(
            _WriteFilesFn(self.stamp, self.folder)
        ).with_outputs(FAILED, main=_FILES)
        loaded = (
            embeddings.pipeline
            | "Once" >> beam.Create([None])
            | "Load"
            >> beam.FlatMap(_load, self.table, self.stamp, AsIter(written[_FILES])).with_outputs(
                FAILED, main=_LOADED
            )
        )
        failed = (written[FAILED], loaded[FAILED]) | "MergeFailures" >> beam.Flatten()
        return TableOutcome(loaded=loaded[_LOADED], failed=failed)


class _WriteFilesFn(beam.DoFn):
    """Writes the rows of a bundle, and gives the names of the files when all are written."""

    def __init__(self, stamp: RowStamp, folder: str) -> None:
        self._stamp = stamp
        self._folder = folder
        self._rows_at_once = rows_at_once(stamp.layout.width)

    def start_bundle(self) -> None:
        # A bundle that broke off leaves a file behind, of which nobody hears.
        self._waiting: list[Embedding] = []
        self._file: RowFile | None = None
        self._finished: list[str] = []

    def process(self, embedding: Embedding) -> Iterator[Any]:
        self._waiting.append(embedding)
        if len(self._waiting) == self._rows_at_once:
            for failure in self._write():
                yield TaggedOutput(FAILED, failure)

    def finish_bundle(self) -> Iterator[Any]:
        for failure in self._write():
            yield TaggedOutput(FAILED, GlobalWindows.windowed_value_at_end_of_window(failure))
        self._close()
        for name in self._finished:
            yield GlobalWindows.windowed_value_at_end_of_window(name)

    def _write(self) -> list[Failure]:
        rows, failures = make_rows(self._waiting, self._stamp)
        self._waiting = []
        if rows.num_rows:
            if self._file is None:
                self._file = RowFile(f"{self._folder}/rows-{uuid.uuid4().hex}.parquet", rows.schema)
            self._file.write(rows)
            if self._file.is_full:
                self._close()
        return failures

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._finished.append(self._file.path)
            self._file = None


def make_rows(embeddings: Sequence[Embedding], stamp: RowStamp) -> tuple[pa.Table, list[Failure]]:
    """Return the rows of all embeddings that can be rows, and why the others cannot."""
    try:
        return embedding_rows(embeddings, stamp, vectors="float32"), []
    except _NO_ROW:
        pass  # One of them is to blame; the others go on.
    rows, failures = [], []
    for embedding in embeddings:
        try:
            rows.append(embedding_rows([embedding], stamp, vectors="float32"))
        except _NO_ROW as error:
            reason = error if isinstance(error, ImageError) else RefusedRow(str(error))
            failures.append(_failure(embedding.info.uri, reason, embedding.info.origin.carried))
    schema = rows_schema(stamp.layout, stamp.columns, vectors="float32")
    return pa.concat_tables(rows) if rows else schema.empty_table(), failures


def _load(_: None, table: TableName, stamp: RowStamp, files: Iterable[str]) -> Iterator[Any]:
    jobs = run_jobs(table, stamp.run_id)
    staging = staging_table(table, stamp.run_id)
    names = rows_schema(stamp.layout, stamp.columns, vectors="float32").names
    schema = [field for field in table_schema(stamp.layout, stamp.columns) if field.name in names]
    create_staging(jobs, staging, schema)
    result = load_files(jobs, staging, stamp.run_id, list(files))
    yield result.row_count
    for refused in result.refused:
        [row] = refused.row.to_pylist()
        carried = tuple(row[column.name] for column in stamp.columns)
        yield TaggedOutput(FAILED, _failure(row["uri"], RefusedRow(refused.reason), carried))


def _failure(uri: str, error: ImageError, carried: Sequence[Any]) -> Failure:
    Metrics.counter(STAGE, f"failed-{type(error).__name__}").inc()
    return make_failure(uri, STAGE, error, tuple(carried))
