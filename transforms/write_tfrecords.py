"""WriteTFRecords: the embeddings of a job as sharded TFRecord files."""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes

from transforms.folders.output_folder import EMBEDDINGS_SUFFIX, Compression, embeddings_prefix
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import encode_embeddings
from transforms.records import CarriedColumn, Embedding, OutputLayout

# At 1536 floats a batch is 3 MB, and the encoder's call no longer shows.
_EMBEDDINGS_PER_ENCODE = 512


@dataclass
class WriteTFRecords(beam.PTransform):
    """Write one tf.Example an image, to `embeddings-00000-of-0000N.tfrecord` in a folder.

    Gives the paths of the files. They appear under their names only when all are written.
    Wait on this collection, but do not count it: Beam leaves out the files that an earlier,
    failed attempt at the renaming had already renamed. Without any embedding the files are
    there, and empty.

    Example:
        >>> files = embeddings | WriteTFRecords("out", provenance, shards=3)  # doctest: +SKIP
    """

    folder: str
    """As `output_folder.prepare_output` left it."""
    provenance: Provenance
    shards: int = 0
    """Exactly so many files; 0 lets the runner choose, which saves a shuffle."""
    compression: Compression = "none"
    layout: OutputLayout | None = None
    """What is written of each vector; None: all of it is the embedding."""
    columns: tuple[CarriedColumn, ...] = ()
    """What is carried along from the input."""

    def __post_init__(self) -> None:
        if self.shards < 0:
            raise ValueError(f"shards is {self.shards}; use 0 or more")
        if self.compression not in EMBEDDINGS_SUFFIX:
            raise ValueError(
                f"compression is {self.compression!r}; use one of {', '.join(EMBEDDINGS_SUFFIX)}"
            )

    def expand(self, embeddings: beam.PCollection[Embedding]) -> beam.PCollection[str]:
        """Return the paths of the files, once they are in place."""
        return (
            embeddings
            | "BatchEmbeddings"
            >> beam.BatchElements(
                min_batch_size=_EMBEDDINGS_PER_ENCODE,
                max_batch_size=_EMBEDDINGS_PER_ENCODE,
            )
            | "EncodeExamples"
            >> beam.FlatMap(
                encode_embeddings,
                provenance=self.provenance,
                layout=self.layout,
                columns=self.columns,
            ).with_output_types(bytes)
            | "WriteShards"
            >> beam.io.WriteToTFRecord(
                embeddings_prefix(self.folder),
                file_name_suffix=EMBEDDINGS_SUFFIX[self.compression],
                num_shards=self.shards,
                compression_type=(
                    CompressionTypes.GZIP
                    if self.compression == "gzip"
                    else CompressionTypes.UNCOMPRESSED
                ),
            )
        )
