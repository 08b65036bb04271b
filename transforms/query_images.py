"""`QueryImages`: from the rows of a BigQuery query to references to images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import IncompleteRun
from transforms.records import Failure, ImageRef
from transforms.sources.image_query import QueryRows, query_refs
from transforms.step_parts.attempt_each import FAILED, make_failure
from transforms.step_parts.read_table_rows import ReadTableRows
from transforms.workers.tally import PROCESS_TALLY

_STAGE = "QueryImages"
_REFS = "refs"
_COUNTS = "counts"


class QueriedImages(NamedTuple):
    """What `QueryImages` returns. Each row is in `refs` or in `failed`."""

    refs: beam.PCollection[ImageRef]
    """With their carried values; a URI that several rows name comes several times."""
    failed: beam.PCollection[Failure]
    """One for each row without a URI, or with a value that cannot be carried."""
    complete: beam.PCollection[bool]
    """One True, once it is certain that every row was read, and none twice."""


@dataclass(eq=False)
class QueryImages(beam.PTransform):
    """Read the rows that `image_query.run_image_query` has kept for the job, in parallel.

    Starts a pipeline: it takes the pipeline itself. What lies in a bucket is not looked up:
    `ListImages` does that, and drops what comes twice.

    Raises (in the worker, which fails the job):
        JobError: the rows cannot be read.
        IncompleteRun: there are more of them, or fewer, than the query gave.

    Example:
        >>> queried = pipeline | QueryImages(rows)  # doctest: +SKIP
        >>> listing = (queried.refs,) | ListImages(("/photos",))  # doctest: +SKIP
    """

    rows: QueryRows

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, pipeline: beam.Pipeline) -> QueriedImages:
        """Return the references, and what became of the other rows."""
        names = (self.rows.uri_column, *(column.name for column in self.rows.columns))
        outputs = (
            pipeline
            | "ReadRows" >> ReadTableRows(self.rows.table, tuple(dict.fromkeys(names)))
            | "Refs" >> beam.ParDo(_RefsFn(self.rows)).with_outputs(FAILED, _COUNTS, main=_REFS)
        )
        # What is lost before an image is counted as found would be lost in silence.
        complete = (
            outputs[_COUNTS]
            | "SumCounts" >> beam.CombineGlobally(sum)
            | "CheckNothingLost" >> beam.Map(_check_nothing_lost, self.rows.row_count)
        )
        return QueriedImages(outputs[_REFS], outputs[FAILED], complete)


class _RefsFn(beam.DoFn):
    def __init__(self, rows: QueryRows) -> None:
        self._rows = rows
        self._read = Metrics.counter(_STAGE, "rows-read")
        self._found = Metrics.counter(_STAGE, "images-found")

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        self._read.inc(batch.num_rows)
        for entry in query_refs(batch, self._rows):
            if isinstance(entry, ImageRef):
                yield entry
            else:
                self._found.inc()
                Metrics.counter(_STAGE, f"failed-{type(entry.error).__name__}").inc()
                PROCESS_TALLY.add("found")
                PROCESS_TALLY.add("failed")
                yield TaggedOutput(FAILED, make_failure(entry.uri, _STAGE, entry.error))
        yield TaggedOutput(_COUNTS, batch.num_rows)


def _check_nothing_lost(read: int, expected: int) -> bool:
    if read != expected:
        raise IncompleteRun(
            f"the query gave {expected:,} rows, but {read:,} were read; run the job again"
        )
    return True
