"""`MergeRows`: the rows of a run from its staging table into the table of embeddings."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsIter
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.windowed_value import WindowedValue

from transforms.bigquery.client import TableName
from transforms.bigquery.merge import merge_run
from transforms.formats.embedding_rows import RowStamp, rows_schema
from transforms.formats.row_files import RowFile, discard_row_files
from transforms.ledgers.ledger import MANIFEST_SCHEMA, entries_to_arrow
from transforms.records import LedgerEntry

# What tells the rows of images that are gone, as the run has seen them.
_GONE_COLUMNS = ("uri", "run_id", "embedded_at")
_GONE_SCHEMA = pa.schema([MANIFEST_SCHEMA.field(name) for name in _GONE_COLUMNS])
_ROWS_AT_ONCE = 65_536


class MergeParts(NamedTuple):
    """What `MergeRows` is applied to."""

    checked: beam.PCollection[Any]
    """One element, once all counts of the run are right."""
    gone: beam.PCollection[LedgerEntry]
    """Rows of earlier runs whose images the inputs no longer hold."""


@dataclass(eq=False)
class MergeRows(beam.PTransform):
    """Merge the rows into the table once the run is checked; hand on what says that it is.

    Afterwards the table has one row for each URI of the run, model, preprocessing and precision:
    that of the run which began last, in whatever order they come to their end, and however often
    this step is tried again. See `bigquery_merge`.

    Raises (in the worker, which fails the job):
        JobError: BigQuery fails, or a permission was lost.

    Example:
        >>> report = MergeParts(report, gone) | MergeRows(table, stamp, folder)  # doctest: +SKIP
    """

    table: TableName
    stamp: RowStamp
    """As for `WriteTableRows`, which has loaded the staging table."""
    folder: str
    """On gs://, of this run alone: that of `WriteTableRows`. It is emptied at the end."""
    prune: bool = False
    """Delete the rows of `gone`, but not what a later run has written of the same image."""

    @no_annotations  # Beam warns of the tuple.
    def expand(self, parts: MergeParts) -> beam.PCollection[Any]:
        """Return what was checked, once it is merged."""
        if not self.prune:
            return parts.checked | "Merge" >> beam.Map(_merge, self, None)
        files = parts.gone | "WriteGone" >> beam.ParDo(_WriteGoneFn(self.folder)).with_output_types(
            str
        )
        return parts.checked | "Merge" >> beam.Map(_merge, self, AsIter(files))


class _WriteGoneFn(beam.DoFn):
    """Writes the rows of a bundle, and gives the name of the file when it is written."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        # A bundle that broke off leaves a file behind, of which nobody hears.
        self._waiting: list[LedgerEntry] = []
        self._file: RowFile | None = None

    def process(self, entry: LedgerEntry) -> None:
        self._waiting.append(entry)
        if len(self._waiting) == _ROWS_AT_ONCE:
            self._write()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._waiting:
            self._write()
        if self._file is not None:
            self._file.close()
            yield GlobalWindows.windowed_value_at_end_of_window(self._file.path)

    def _write(self) -> None:
        if self._file is None:
            self._file = RowFile(f"{self._folder}/gone-{uuid.uuid4().hex}.parquet", _GONE_SCHEMA)
        self._file.write(entries_to_arrow(self._waiting).select(_GONE_COLUMNS))
        self._waiting = []


def _merge(checked: Any, step: MergeRows, gone_files: Iterable[str] | None) -> Any:
    stamp = step.stamp
    columns = rows_schema(stamp.layout, stamp.columns, vectors="float32").names
    files = None if gone_files is None else list(gone_files)
    merge_run(step.table, stamp.run_id, stamp.provenance, columns, files)
    discard_row_files(step.folder)
    return checked
