"""`ReadTableRows`: the rows of a BigQuery table, spread over the workers."""

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms.bigquery.client import TableName
from transforms.bigquery.rows import TableStream, open_streams, read_stream


@dataclass(eq=False)
class ReadTableRows(beam.PTransform):
    """Read some columns of a table as Arrow batches, from one snapshot, in parallel.

    Starts a pipeline: it takes the pipeline itself. The snapshot is taken when the job runs.

    Raises (in the worker, which fails the job):
        JobError: the table cannot be read.

    Example:
        >>> batches = pipeline | ReadTableRows(table, ("uri", "sha256"))  # doctest: +SKIP
    """

    table: TableName
    columns: tuple[str, ...]
    where: str = ""
    """Which rows, as in a WHERE clause."""

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[pa.RecordBatch]:
        """Return the batches."""
        return (
            pipeline
            | "Table" >> beam.Create([self.table])
            | "OpenStreams"
            >> beam.FlatMap(open_streams, self.columns, self.where).with_output_types(TableStream)
            | "SpreadStreams" >> beam.Reshuffle()
            | "ReadStreams" >> beam.FlatMap(read_stream).with_output_types(pa.RecordBatch)
        )
