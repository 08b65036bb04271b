"""Write tests/golden/embeddings: an output that every later version has to read.

Run once, for version 1 of the format, as `python tests/golden/make_embeddings.py`. Do not run
it again: a change of the format gets a folder of its own, beside this one.
"""

from pathlib import Path

import apache_beam as beam
import numpy as np

from transforms.folders.output_folder import prepare_output, schema_path, success_path, write_text
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import embeddings_schema_text
from transforms.records import Embedding, ImageInfo, OutputLayout
from transforms.write_tfrecords import WriteTFRecords

FOLDER = str(Path(__file__).parent / "embeddings")

EMBEDDINGS = [
    Embedding(
        ImageInfo("/photos/первый снимок.jpg", "a" * 64, "JPEG", 480, 640),
        np.array([0.1, -0.0, 1e-45, 3.4028235e38], np.float32),
        batch_slots=1.0,
    ),
    Embedding(
        ImageInfo("gs://bucket/photos/2.png", "b" * 64, "PNG", 1, 65535),
        np.array([1.0, 2.0, 3.0, 4.0], np.float32),
        batch_slots=1.0,
    ),
    Embedding(
        ImageInfo("gs://bucket/photos/3.webp", "c" * 64, "WEBP", 300, 200),
        np.array([-1.0, 0.5, 0.25, -0.125], np.float32),
        batch_slots=1.0,
    ),
]

if __name__ == "__main__":
    prepare_output(FOLDER, overwrite=False)
    write_text(schema_path(FOLDER), embeddings_schema_text(OutputLayout(embedding_width=4)))
    provenance = Provenance("https://example.com/model/4", "0123456789abcdef", "fedcba9876543210")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create(EMBEDDINGS) | WriteTFRecords(FOLDER, provenance, shards=2)
    write_text(success_path(FOLDER), "")
