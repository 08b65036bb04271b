"""WriteParquet: the embeddings of a job as sharded Parquet files."""

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms.folders.output_folder import embeddings_prefix
from transforms.formats.embedding_rows import RowStamp, embedding_rows, rows_schema
from transforms.records import Embedding
from transforms.step_parts.parquet_sink import ParquetSink

# At 1536 floats a table is 1.5 MB, and what is done once for each no longer shows.
_EMBEDDINGS_PER_TABLE = 256


@dataclass
class WriteParquet(beam.PTransform):
    """Write one row an image, to `embeddings-00000-of-0000N.parquet` in a folder.

    Gives the paths of the files. They appear under their names only when all are written.
    Wait on this collection, but do not count it: Beam leaves out the files that an earlier,
    failed attempt at the renaming had already renamed. Without any embedding the files are
    there, and have no rows.

    Example:
        >>> files = embeddings | WriteParquet("out", stamp, shards=3)  # doctest: +SKIP
    """

    folder: str
    """As `output_folder.prepare_output` left it."""
    stamp: RowStamp
    shards: int = 0
    """Exactly so many files; 0 lets the runner choose, which saves a shuffle."""

    def __post_init__(self) -> None:
        if self.shards < 0:
            raise ValueError(f"shards is {self.shards}; use 0 or more")

    def expand(self, embeddings: beam.PCollection[Embedding]) -> beam.PCollection[str]:
        """Return the paths of the files, once they are in place."""
        schema = rows_schema(self.stamp.layout, self.stamp.columns, vectors="float32")
        return (
            embeddings
            | "BatchEmbeddings"
            >> beam.BatchElements(
                min_batch_size=_EMBEDDINGS_PER_TABLE,
                max_batch_size=_EMBEDDINGS_PER_TABLE,
            )
            | "MakeRows"
            >> beam.Map(embedding_rows, stamp=self.stamp, vectors="float32").with_output_types(
                pa.Table
            )
            | "WriteShards"
            >> beam.io.Write(ParquetSink(embeddings_prefix(self.folder), schema, self.shards))
        )
