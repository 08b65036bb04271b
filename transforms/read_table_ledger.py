"""`ReadTableLedger`: what earlier runs have done, from their rows in a BigQuery table."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms.bigquery.client import TableName
from transforms.bigquery.rows import string_literal
from transforms.formats.embedding_table import SET_COLUMNS, Provenance
from transforms.ledgers.ledger import MANIFEST_SCHEMA, entries_from_arrow
from transforms.records import LedgerEntry
from transforms.step_parts.read_table_rows import ReadTableRows


@dataclass(eq=False)
class ReadTableLedger(beam.PTransform):
    """Read a table of embeddings, one `LedgerEntry` a row, in parallel, and never a vector.

    Starts a pipeline: it takes the pipeline itself. The table is read as it is when the job
    runs. A row that lacks what an entry needs is none of ours, and is left out.

    Raises (in the worker, which fails the job):
        JobError: the table cannot be read; the message says what to grant.

    Example:
        >>> entries = pipeline | ReadTableLedger(table, provenance)  # doctest: +SKIP
    """

    table: TableName
    provenance: Provenance | None = None
    """Only rows of this model, preprocessing and precision; None: all."""

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[LedgerEntry]:
        """Return the entries of all rows."""
        names = tuple(MANIFEST_SCHEMA.names)
        return (
            pipeline
            | "ReadRows" >> ReadTableRows(self.table, names, _condition(self.provenance))
            | "Entries" >> beam.FlatMap(_entries).with_output_types(LedgerEntry)
        )


def _condition(provenance: Provenance | None) -> str:
    conditions = [f"{field.name} IS NOT NULL" for field in MANIFEST_SCHEMA if not field.nullable]
    if provenance is not None:
        conditions += [
            f"{name} = {string_literal(getattr(provenance, name))}" for name in SET_COLUMNS
        ]
    return " AND ".join(conditions)


def _entries(batch: pa.RecordBatch) -> Iterator[LedgerEntry]:
    # BigQuery gives the columns in the order of the table.
    rows = pa.Table.from_batches([batch]).select(MANIFEST_SCHEMA.names).cast(MANIFEST_SCHEMA)
    return entries_from_arrow(rows)
