"""WriteTableRows: the staging table it leaves, and what becomes of rows that cannot be there."""

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from bigquery_emulator import Warehouse, bigquery_emulator
from google.cloud.bigquery import SchemaField
from table_runs import FIRST, LAYOUT, embedding, new_table, stamp

from transforms.bigquery.client import TableName
from transforms.bigquery.load import create_staging, run_jobs, staging_table
from transforms.bigquery.schema import table_schema
from transforms.formats import row_files
from transforms.formats.embedding_rows import RowStamp
from transforms.formats.row_files import read_row_file, rows_at_once
from transforms.records import CarriedColumn, Embedding, ImageInfo, Origin, OutputLayout
from transforms.write_table_rows import WriteTableRows, _WriteFilesFn, make_rows

COLUMNS = (CarriedColumn("label"), CarriedColumn("stock", "int64"))
STAMP = stamp(FIRST, columns=COLUMNS)


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


def write(
    warehouse: Warehouse,
    table: TableName,
    embeddings: Sequence[Embedding],
    loaded: int,
    failed: Sequence[tuple[str, str, tuple[Any, ...]]] = (),
    made: RowStamp = STAMP,
) -> None:
    """Run the step; check the number of rows, and URI, error and carried values of the failures."""
    with TestPipeline(runner="FnApiRunner") as pipeline:
        outcome = (
            pipeline
            | beam.Create(list(embeddings))
            | WriteTableRows(table, made, f"{warehouse.bucket}/rows")
        )
        assert_that(outcome.loaded, equal_to([loaded]), "Loaded")
        failures = outcome.failed | beam.Map(
            lambda failure: (failure.uri, failure.error, failure.carried)
        )
        assert_that(failures, equal_to(list(failed)), "Failed")
        stages = outcome.failed | "Stages" >> beam.Map(lambda failure: failure.stage)
        assert_that(stages, equal_to(["WriteTableRows"] * len(failed)), "Stage")


def staged(warehouse: Warehouse, table: TableName) -> list[dict[str, Any]]:
    return warehouse.query(f"SELECT * FROM {staging_table(table, FIRST).table} ORDER BY uri")


def test_every_row_is_in_the_staging_table_and_none_in_the_table(warehouse: Warehouse) -> None:
    table = new_table(warehouse, columns=COLUMNS)
    embeddings = [embedding(f"image {n:03}", 1_000.0 + n, n / 7, ("x", n)) for n in range(300)]
    write(warehouse, table, embeddings, loaded=300)
    rows = staged(warehouse, table)
    assert [row["uri"] for row in rows] == [f"image {n:03}" for n in range(300)]
    assert [row["embedding"] for row in rows] == [
        [float(value) for value in embedding.vector] for embedding in embeddings
    ]
    assert [row["stock"] for row in rows] == list(range(300))
    [row] = warehouse.query("SELECT COUNT(*) AS row_count FROM embeddings")
    assert row["row_count"] == 0


def test_without_embeddings_there_is_an_empty_staging_table(warehouse: Warehouse) -> None:
    table = new_table(warehouse, columns=COLUMNS)
    write(warehouse, table, [], loaded=0)
    assert staged(warehouse, table) == []


def test_logits_and_classes_are_loaded_where_no_embedding_is_asked_for(
    warehouse: Warehouse,
) -> None:
    layout = OutputLayout(0, classes=3, writes_logits=True, top_classes=2, labels=("a", "b", "c"))
    made = RowStamp(STAMP.provenance, FIRST, layout)
    image = Embedding(ImageInfo("a", "f", "PNG", 1, 1), np.array([0, 2, 1], np.float32), 1.0, 1.0)
    table = new_table(warehouse)
    write(warehouse, table, [image], loaded=1, made=made)
    [row] = staged(warehouse, table)
    assert row["logits"] == [0.0, 2.0, 1.0]
    assert [(found["index"], found["label"]) for found in row["classes"]] == [(1, "b"), (2, "c")]


def test_images_that_make_no_row_fail_and_the_others_do_not(warehouse: Warehouse) -> None:
    table = new_table(warehouse, columns=COLUMNS)
    embeddings = [
        embedding("good", carried=("x", 1)),
        embedding("no number", carried=("x", "seven")),
        embedding("too large", carried=("x", 2**63)),
        embedding("no values"),
    ]
    failed = [
        ("no number", "InvalidColumn", ("x", "seven")),
        ("too large", "InvalidColumn", ("x", 2**63)),
    ]
    write(warehouse, table, embeddings, loaded=2, failed=failed)
    assert [row["uri"] for row in staged(warehouse, table)] == ["good", "no values"]


def test_half_a_character_is_no_text_and_fails_its_image_alone() -> None:
    rows, [failure] = make_rows(
        [embedding("half \ud83d of it", carried=("x", 1)), embedding("good")], STAMP
    )
    assert rows["uri"].to_pylist() == ["good"]
    assert (failure.error, failure.carried) == ("RefusedRow", ("x", 1))
    assert "surrogates not allowed" in failure.message


def test_a_vector_of_another_width_is_no_fault_of_the_image() -> None:
    wide = Embedding(ImageInfo("a", "f", "PNG", 1, 1), np.zeros(4, np.float32), 1.0)
    with pytest.raises(ValueError, match="3"):
        make_rows([wide], stamp(FIRST))


def test_rows_that_bigquery_refuses_fail_with_its_reason(warehouse: Warehouse) -> None:
    table = new_table(warehouse, columns=COLUMNS)
    # With this type of the label the staging table refuses words.
    schema = [
        SchemaField("label", "INT64") if field.name == "label" else field
        for field in table_schema(LAYOUT, COLUMNS)
    ]
    create_staging(run_jobs(table, FIRST), staging_table(table, FIRST), schema)
    embeddings = [embedding(f"image {n}", carried=(str(n), n)) for n in range(9)]
    cat = embedding("image of a cat", carried=("cat", 9))
    write(
        warehouse,
        table,
        [*embeddings[:4], cat, *embeddings[4:]],
        loaded=9,
        failed=[("image of a cat", "RefusedRow", ("cat", 9))],
    )
    assert [row["uri"] for row in staged(warehouse, table)] == [f"image {n}" for n in range(9)]


def bundle(step: _WriteFilesFn, embeddings: Sequence[Embedding]) -> list[str]:
    step.start_bundle()
    for image in embeddings:
        assert list(step.process(image)) == []
    return [value.value for value in step.finish_bundle()]


def test_what_a_broken_bundle_wrote_is_never_loaded(warehouse: Warehouse) -> None:
    images = [embedding(f"image {n}", carried=("x", n)) for n in range(4)]
    step = _WriteFilesFn(STAMP, f"{warehouse.bucket}/rows")
    first = bundle(step, images)
    # Its answer is lost, so it is done again; another attempt breaks off half-way.
    step.start_bundle()
    list(step.process(images[0]))
    again = bundle(step, images)
    assert len(first) == len(again) == 1
    assert first != again
    assert read_row_file(again[0])["uri"].to_pylist() == [image.info.uri for image in images]


def test_a_large_bundle_is_several_files_that_fit_into_memory(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "FILE_BYTES", 1)
    count = 2 * rows_at_once(LAYOUT.width) + 5
    images = [
        Embedding(
            ImageInfo(f"image {n:06}", "f", "PNG", 1, 1, Origin(carried=("x", n))),
            np.zeros(3, np.float32),
            1.0,
        )
        for n in range(count)
    ]
    names = bundle(_WriteFilesFn(STAMP, f"{warehouse.bucket}/rows"), images)
    assert len(names) == len(set(names)) == 3
    uris = [uri for name in names for uri in read_row_file(name)["uri"].to_pylist()]
    assert uris == [image.info.uri for image in images]


def test_an_empty_bundle_writes_no_file(warehouse: Warehouse) -> None:
    assert bundle(_WriteFilesFn(STAMP, f"{warehouse.bucket}/rows"), []) == []
