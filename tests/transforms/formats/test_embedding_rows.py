"""Embeddings as rows in Arrow: types, order, values, and what is refused."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from rows import (
    ALL,
    CARRIED,
    COLUMNS,
    EMBEDDING,
    LABELS,
    LOGITS,
    RUN_ID,
    TOP,
    WIDTH,
    embedding,
    stamp,
    with_everything,
)

from transforms.errors import InvalidColumn
from transforms.formats.embedding_rows import METADATA_KEY, Vectors, embedding_rows, rows_schema
from transforms.records import CarriedColumn, Embedding, OutputLayout
from transforms.sources.carried_columns import RESERVED_NAMES

FIRST = ["uri", "sha256", "generation", "width", "height", "format"]
LAST = [
    *("model", "model_fingerprint", "preprocess_fingerprint", "precision"),
    *("run_id", "embedded_at"),
]


def test_the_columns_come_in_the_order_of_the_table_in_bigquery() -> None:
    names = [*FIRST, "embedding", *LAST]
    extra = ["logits", "classes", "label", "price", "stock", "sold"]
    assert rows_schema(EMBEDDING, vectors="float64").names == names
    assert rows_schema(ALL, COLUMNS, vectors="float64").names == [*names, *extra]
    assert rows_schema(ALL, COLUMNS, vectors="float32").names == [*names, *extra]


@pytest.mark.parametrize("vectors", ["float32", "float64"])
def test_without_an_embedding_only_bigquery_has_the_column(vectors: Vectors) -> None:
    rows = embedding_rows([embedding(1, TOP)], stamp(TOP), vectors=vectors)
    assert ("embedding" in rows.column_names) == (vectors == "float64")
    if vectors == "float64":
        assert rows["embedding"].to_pylist() == [[]]


def test_the_types_are_those_that_were_promised() -> None:
    schema = rows_schema(ALL, COLUMNS, vectors="float32")
    assert schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    assert schema.field("logits").type == pa.list_(pa.float32(), 3)
    assert schema.field("embedded_at").type == pa.timestamp("us", tz="UTC")
    kinds = {column.name: schema.field(column.name).type for column in COLUMNS}
    assert kinds == {
        "label": pa.string(),
        "price": pa.float64(),
        "stock": pa.int64(),
        "sold": pa.bool_(),
    }
    wide = rows_schema(ALL, COLUMNS, vectors="float64")
    assert wide.field("embedding").type == wide.field("logits").type == pa.list_(pa.float64())
    assert wide.field("classes").type.value_type.field("probability").type == pa.float64()


@pytest.mark.parametrize("vectors", ["float32", "float64"])
def test_a_row_holds_what_the_embedding_holds(vectors: Vectors) -> None:
    embeddings = with_everything()
    rows = embedding_rows(embeddings, stamp(ALL, COLUMNS), vectors=vectors)
    rows.validate(full=True)
    assert rows.schema.equals(rows_schema(ALL, COLUMNS, vectors=vectors), check_metadata=True)

    row = rows.to_pylist()[1]
    vector = embeddings[1].vector
    order = np.argsort(-vector[WIDTH:])[:2].tolist()
    classes = row.pop("classes")
    assert [one["index"] for one in classes] == order
    assert [one["label"] for one in classes] == [LABELS[index] for index in order]
    powers = np.exp(vector[WIDTH:].astype(np.float64))
    probabilities = [one["probability"] for one in classes]
    np.testing.assert_allclose(probabilities, (powers / powers.sum())[order], rtol=1e-6)
    assert row == {
        "uri": "/фото/写真 1.jpg",
        "sha256": f"{1:064x}",
        "generation": "1700000000000001",
        "width": 70_001,
        "height": 1,
        "format": "PNG",
        "embedding": vector[:WIDTH].tolist(),
        "model": "/models/größe/4",
        "model_fingerprint": "0123456789abcdef",
        "preprocess_fingerprint": "fedcba9876543210",
        "precision": "float32",
        "run_id": RUN_ID,
        "embedded_at": datetime.datetime(2026, 11, 20, 6, 34, 46, 993_590, datetime.UTC),
        "logits": vector[WIDTH:].tolist(),
        "label": "",
        "price": -0.0,
        "stock": -(2**63),
        "sold": False,
    }
    assert rows["generation"].to_pylist()[0] is None


def test_the_vectors_are_kept_bit_for_bit() -> None:
    awkward = np.array([-0.0, 1e-45, 3.4028235e38, 1.1754944e-38, 0.1], np.float32)
    embeddings = [Embedding(embedding(1).info, awkward, 1.0), embedding(2)]
    expected = np.stack([one.vector for one in embeddings])
    narrow = embedding_rows(embeddings, stamp(), vectors="float32")["embedding"]
    assert narrow.combine_chunks().flatten().to_numpy().tobytes() == expected.tobytes()
    wide = embedding_rows(embeddings, stamp(), vectors="float64")["embedding"]
    floats = wide.combine_chunks().flatten().to_numpy()
    assert floats.astype(np.float32).tobytes() == expected.tobytes()


def test_carried_values_keep_their_types_and_nulls() -> None:
    rows = embedding_rows(with_everything(), stamp(ALL, COLUMNS), vectors="float32")
    carried = rows.select([column.name for column in COLUMNS]).to_pylist()
    assert [tuple(row.values()) for row in carried[:3]] == list(CARRIED[:3])
    # An image from an input without columns.
    assert set(carried[3].values()) == {None}


def test_labels_are_null_where_there_are_none() -> None:
    rows = embedding_rows([embedding(1, TOP)], stamp(TOP), vectors="float32")
    [classes] = rows["classes"].to_pylist()
    assert [one["label"] for one in classes] == [None, None]


@pytest.mark.parametrize("vectors", ["float32", "float64"])
def test_no_embeddings_are_a_table_without_rows(vectors: Vectors) -> None:
    rows = embedding_rows([], stamp(ALL, COLUMNS), vectors=vectors)
    assert len(rows) == 0
    assert rows.schema == rows_schema(ALL, COLUMNS, vectors=vectors)


def test_the_metadata_tells_widths_and_columns() -> None:
    schema = rows_schema(ALL, COLUMNS[:2], vectors="float32")
    assert json.loads(schema.metadata[METADATA_KEY]) == {
        "version": 1,
        "widths": {
            "embedding": WIDTH,
            "logits": 3,
            "classes/index": 2,
            "classes/probability": 2,
            "classes/label": 2,
        },
        "columns": [{"name": "label", "kind": "string"}, {"name": "price", "kind": "float64"}],
    }


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", 1),
        ("string", b"x"),
        ("string", "half a character \ud800"),
        ("int64", 1.5),
        ("int64", "1"),
        ("int64", True),
        ("int64", 2**63),
        ("float64", "1.5"),
        ("float64", True),
        ("float64", 2**53 + 1),
        ("bool", 1),
        ("bool", "true"),
    ],
)
def test_a_value_that_does_not_fit_names_its_image(kind, value) -> None:
    columns = (CarriedColumn("first"), CarriedColumn("price", kind))
    good = [embedding(n, carried=("x", None)) for n in (1, 2)]
    bad = embedding(3, carried=("x", value))
    with pytest.raises(InvalidColumn, match=rf"/фото/写真 3.jpg has .* 'price'.* as {kind}"):
        embedding_rows([*good, bad, good[0]], stamp(columns=columns), vectors="float64")


def test_a_long_value_is_cut_in_the_message() -> None:
    bad = embedding(3, carried=("x" * 10_000,))
    with pytest.raises(InvalidColumn) as told:
        embedding_rows([bad], stamp(columns=(CarriedColumn("n", "int64"),)), vectors="float32")
    assert len(str(told.value)) < 300


def test_another_number_of_values_than_columns_names_its_image() -> None:
    columns = (CarriedColumn("label"),)
    bad = embedding(3, carried=("x", "y"))
    with pytest.raises(InvalidColumn, match=r"写真 3.jpg has 2 carried values, but the job has 1"):
        embedding_rows([bad], stamp(columns=columns), vectors="float32")


def test_vectors_that_the_layout_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="have 5 values, but the layout has 6"):
        embedding_rows([embedding(1)], stamp(OutputLayout(6)), vectors="float32")
    wrong = Embedding(embedding(1).info, np.ones(WIDTH), 1.0)
    with pytest.raises(TypeError, match="float64"):
        embedding_rows([wrong], stamp(), vectors="float64")


@pytest.mark.parametrize("layout", [ALL, LOGITS])
def test_no_carried_column_can_be_named_like_one_of_a_row(layout: OutputLayout) -> None:
    assert set(rows_schema(layout, vectors="float64").names) <= set(RESERVED_NAMES)
