"""`WriteManifest`: the ledger as it is after a run."""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io import WriteToParquetBatched

from transforms.folders.output_names import PARQUET_SUFFIX, manifest_prefix
from transforms.ledgers.ledger import MANIFEST_SCHEMA, entries_to_arrow
from transforms.records import LedgerEntry

# A row group is what one worker reads at a time: large enough that its columns compress, small
# enough that a ledger of millions of rows keeps many workers busy.
_ROWS_PER_GROUP = 50_000


@dataclass(eq=False)
class WriteManifest(beam.PTransform):
    """Write each `LedgerEntry` to `manifest-00000-of-0000N.parquet` in a run folder.

    Gives the paths of the files. They appear under their names only when all are written. Wait
    on this collection, but do not count it: Beam leaves out the files that an earlier, failed
    attempt at the renaming had already renamed. Without any entry there is one file, without rows.

    Example:
        >>> files = entries | WriteManifest("out/runs/20261120T063000Z-0123abcd")  # doctest: +SKIP
    """

    run_folder: str
    shards: int = 0
    """Exactly so many files; 0 lets the runner choose, which saves a shuffle."""

    def expand(self, entries: beam.PCollection[LedgerEntry]) -> beam.PCollection[str]:
        """Return the paths of the files, once they are in place."""
        return (
            entries
            | "BatchEntries"
            >> beam.BatchElements(min_batch_size=_ROWS_PER_GROUP, max_batch_size=_ROWS_PER_GROUP)
            | "ToArrow" >> beam.Map(entries_to_arrow)
            | "WriteShards"
            >> WriteToParquetBatched(
                manifest_prefix(self.run_folder),
                MANIFEST_SCHEMA,
                codec="zstd",
                file_name_suffix=PARQUET_SUFFIX,
                num_shards=self.shards,
            )
        )
