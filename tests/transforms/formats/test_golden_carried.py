"""The first outputs with generations and carried columns load, whatever the version."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from transforms.formats.embedding_table import EmbeddingTable, Provenance
from transforms.formats.parquet_file import read_parquet_shards
from transforms.formats.tf_example import read_tfrecord_shards

GOLDEN = Path(__file__).parents[2] / "golden"
[SHARD] = (GOLDEN / "carried_parquet").glob("embeddings-*.parquet")

VECTORS = np.array(
    [[0.1, -0.0, 1e-45, 3.4028235e38], [1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.25, -0.125]],
    np.float32,
)
LOGITS = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, -5.0], [1.0, 0.0, 0.5]], np.float32)


def tfrecords() -> EmbeddingTable:
    folder = GOLDEN / "carried_tfrecords"
    shards = [str(path) for path in folder.glob("*.tfrecord")]
    return read_tfrecord_shards(shards, str(folder / "schema.pbtxt"))


@pytest.mark.parametrize("table", [tfrecords(), read_parquet_shards([str(SHARD)])])
def test_every_column_is_as_it_was_written(table: EmbeddingTable) -> None:
    uris = ["/photos/первый снимок.jpg", "gs://bucket/photos/2.png", "https://example.com/3.webp"]
    assert sorted(table.uris) == uris
    order = [table.uris.index(uri) for uri in uris]

    assert [table.sha256[n] for n in order] == ["a" * 64, "b" * 64, "c" * 64]
    generations = ["1795156485993590000-123456", "1700000000000001", None]
    assert [table.generations[n] for n in order] == generations
    assert [table.formats[n] for n in order] == ["JPEG", "PNG", "WEBP"]
    assert table.heights[order].tolist() == [480, 1, 300]
    assert table.widths[order].tolist() == [640, 65535, 200]
    assert table.provenance == Provenance(
        "https://example.com/model/4", "0123456789abcdef", "fedcba9876543210", "float32"
    )
    assert table.vectors[order].tobytes() == VECTORS.tobytes()
    assert table.logits is not None
    assert table.logits[order].tobytes() == LOGITS.tobytes()
    assert table.class_indices is not None
    assert table.class_indices[order].tolist() == [[2, 1], [0, 1], [0, 2]]
    assert table.class_labels is not None
    assert table.class_labels[order].tolist() == [
        ["кошка", "Hund"],
        ["background", "Hund"],
        ["background", "кошка"],
    ]
    assert table.class_probabilities is not None
    np.testing.assert_allclose(table.class_probabilities[order][0], [0.66524, 0.24473], rtol=1e-4)

    carried = {name: [values[n] for n in order] for name, values in table.carried.items()}
    # TFRecords hold a float64 as float32.
    assert carried.pop("price") == [pytest.approx(0.1, rel=1e-7), -2.5, None]
    assert carried == {
        "label": ["кошка", "", None],
        "stock": [2**63 - 1, -(2**63), None],
        "sold": [True, False, None],
    }
    assert [type(value) for value in carried["sold"]] == [bool, bool, type(None)]


def test_parquet_holds_the_rest_of_the_row() -> None:
    rows = {row["uri"]: row for row in pq.read_table(SHARD).to_pylist()}
    first = rows["/photos/первый снимок.jpg"]
    assert first["run_id"] == "20261120T063000Z-0123abcd"
    assert first["embedded_at"] == datetime(2026, 11, 20, 6, 34, 45, 993_590, UTC)
    assert first["price"] == 0.1
