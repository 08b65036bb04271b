"""Write tests/golden/carried_tfrecords and carried_parquet: outputs that every version has to read.

Run once, for the first version with Parquet, generations and carried columns, as
`python tests/golden/make_carried.py`. Do not run it again: a change of the format gets a folder
of its own, beside these.
"""

from pathlib import Path

import apache_beam as beam
import numpy as np

from transforms.folders.output_folder import prepare_output, schema_path, success_path, write_text
from transforms.formats.embedding_rows import RowStamp
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import embeddings_schema_text
from transforms.records import CarriedColumn, Embedding, ImageInfo, Origin, OutputLayout
from transforms.write_parquet import WriteParquet
from transforms.write_tfrecords import WriteTFRecords

HERE = Path(__file__).parent

PROVENANCE = Provenance("https://example.com/model/4", "0123456789abcdef", "fedcba9876543210")
LAYOUT = OutputLayout(
    4, classes=3, writes_logits=True, top_classes=2, labels=("background", "Hund", "кошка")
)
COLUMNS = (
    CarriedColumn("label"),
    CarriedColumn("price", "float64"),
    CarriedColumn("stock", "int64"),
    CarriedColumn("sold", "bool"),
)

EMBEDDINGS = [
    Embedding(
        ImageInfo(
            "/photos/первый снимок.jpg",
            *("a" * 64, "JPEG", 480, 640),
            Origin("1795156485993590000-123456", ("кошка", 0.1, 2**63 - 1, True)),
        ),
        np.array([0.1, -0.0, 1e-45, 3.4028235e38, 0.0, 1.0, 2.0], np.float32),
        batch_slots=1.0,
        embedded_at=1_795_156_485.993_59,
    ),
    Embedding(
        ImageInfo(
            "gs://bucket/photos/2.png",
            *("b" * 64, "PNG", 1, 65535),
            Origin("1700000000000001", ("", -2.5, -(2**63), False)),
        ),
        np.array([1.0, 2.0, 3.0, 4.0, 5.0, 5.0, -5.0], np.float32),
        batch_slots=1.0,
        embedded_at=1_795_156_486.0,
    ),
    Embedding(
        ImageInfo("https://example.com/3.webp", "c" * 64, "WEBP", 300, 200),
        np.array([-1.0, 0.5, 0.25, -0.125, 1.0, 0.0, 0.5], np.float32),
        batch_slots=1.0,
        embedded_at=0.0,
    ),
]

if __name__ == "__main__":
    tfrecords, parquet = str(HERE / "carried_tfrecords"), str(HERE / "carried_parquet")
    prepare_output(tfrecords, overwrite=False)
    prepare_output(parquet, overwrite=False)
    write_text(schema_path(tfrecords), embeddings_schema_text(LAYOUT, COLUMNS))
    stamp = RowStamp(PROVENANCE, "20261120T063000Z-0123abcd", LAYOUT, COLUMNS)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        embeddings = pipeline | beam.Create(EMBEDDINGS)
        _ = embeddings | WriteTFRecords(
            tfrecords, PROVENANCE, shards=1, layout=LAYOUT, columns=COLUMNS
        )
        _ = embeddings | WriteParquet(parquet, stamp, shards=1)
    for folder in (tfrecords, parquet):
        write_text(success_path(folder), "")
