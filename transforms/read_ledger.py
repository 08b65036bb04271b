"""`ReadLedger`: what earlier runs have done, from their manifests."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from transforms.ledgers.ledger import entries_from_arrow, open_manifest
from transforms.records import LedgerEntry

_ROWS_PER_BATCH = 10_000


@dataclass(eq=False)
class ReadLedger(beam.PTransform):
    """Read the manifests of incremental runs, one `LedgerEntry` a row, in parallel.

    Starts a pipeline: it takes the pipeline itself. The files, and the row groups in them, are
    spread over the workers. Of two heads a key may come twice; `ledger.live_entries` says which
    counts.

    Raises (in the worker, which fails the job):
        ValueError: a file is no manifest, or is damaged.

    Example:
        >>> runs = complete_runs("out")  # doctest: +SKIP
        >>> files = manifest_files("out", heads(runs))  # doctest: +SKIP
        >>> entries = pipeline | ReadLedger(files, frozenset(runs))  # doctest: +SKIP
    """

    files: tuple[str, ...]
    """As `ledger.manifest_files` returns them; without any the ledger is empty."""
    runs: frozenset[str] | None = None
    """Only rows that lie in these runs, the complete ones; None: all. What lay in a run that was
    deleted is thereby not done any more, and is embedded again."""

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[LedgerEntry]:
        """Return the entries of all files."""
        return (
            pipeline
            | "Manifests" >> beam.Create(self.files)
            | "SpreadFiles" >> beam.Reshuffle()
            | "RowGroups" >> beam.FlatMap(_row_groups).with_output_types(tuple[str, int])
            | "SpreadRowGroups" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_read, self.runs).with_output_types(LedgerEntry)
        )


def _row_groups(path: str) -> list[tuple[str, int]]:
    with open_manifest(path) as manifest:
        return [(path, group) for group in range(manifest.num_row_groups)]


def _read(row_group: tuple[str, int], runs: frozenset[str] | None) -> Iterator[LedgerEntry]:
    path, group = row_group
    with open_manifest(path) as manifest:
        for batch in manifest.iter_batches(_ROWS_PER_BATCH, row_groups=[group]):
            if runs is not None:
                lies_there = pc.is_in(batch.column("run_id"), pa.array(sorted(runs), pa.string()))
                batch = batch.filter(lies_there)
            yield from entries_from_arrow(batch)
