from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from bigquery_emulator import Warehouse, bigquery_emulator

from transforms.bigquery.client import TableName
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.ledger import entries_to_arrow
from transforms.read_table_ledger import ReadTableLedger, _entries
from transforms.records import LedgerEntry

PROVENANCE = Provenance("hub/model", "m" * 16, "p" * 16, "float32")


def entry(uri: str, generation: str | None = "7", model: str = "m" * 16) -> LedgerEntry:
    return LedgerEntry(
        uri, generation, "5e", model, "p" * 16, "float32", "run-1", 1_793_000_000.000001
    )


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        # In another order than that of a ledger.
        warehouse.query(
            "CREATE TABLE embeddings (precision STRING, embedded_at TIMESTAMP, uri STRING, "
            "sha256 STRING, embedding ARRAY<FLOAT64>, generation STRING, model STRING, "
            "model_fingerprint STRING, preprocess_fingerprint STRING, run_id STRING)"
        )
        yield warehouse


def write(warehouse: Warehouse, entries: list[LedgerEntry]) -> None:
    values = ", ".join(
        f"('{each.precision}', TIMESTAMP_MICROS({round(each.embedded_at * 1e6)}), '{each.uri}', "
        f"'{each.sha256}', [0.5], {repr(each.generation) if each.generation else 'NULL'}, 'hub', "
        f"'{each.model_fingerprint}', '{each.preprocess_fingerprint}', '{each.run_id}')"
        for each in entries
    )
    warehouse.query(f"INSERT INTO embeddings VALUES {values}")


def check(
    warehouse: Warehouse, expected: list[LedgerEntry], provenance: Provenance | None = None
) -> None:
    table = TableName.parse(warehouse.table("embeddings"))
    with TestPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | ReadTableLedger(table, provenance), equal_to(expected))


def test_each_row_is_an_entry(warehouse: Warehouse) -> None:
    entries = [entry("gs://b/1.jpg"), entry("https://h/2.jpg", None), entry("/3.jpg", model="n")]
    write(warehouse, entries)
    check(warehouse, entries)


def test_only_rows_of_the_model_that_is_asked_for_are_read(warehouse: Warehouse) -> None:
    write(warehouse, [entry("gs://b/1.jpg"), entry("gs://b/1.jpg", model="n")])
    check(warehouse, [entry("gs://b/1.jpg")], PROVENANCE)


def test_a_table_without_rows_is_an_empty_ledger(warehouse: Warehouse) -> None:
    check(warehouse, [])


def test_rows_that_somebody_else_has_added_are_left_out(warehouse: Warehouse) -> None:
    write(warehouse, [entry("gs://b/1.jpg")])
    warehouse.query("INSERT INTO embeddings (uri) VALUES ('gs://b/2.jpg')")
    check(warehouse, [entry("gs://b/1.jpg")])


def test_a_table_that_is_gone_fails_the_job_and_is_named(warehouse: Warehouse) -> None:
    table = TableName.parse(warehouse.table("nowhere"))
    pipeline = TestPipeline(runner="FnApiRunner")
    _ = pipeline | ReadTableLedger(table) | beam.Map(print)
    with pytest.raises(Exception, match="nowhere"):
        pipeline.run()


def test_the_columns_may_come_in_any_order() -> None:
    # BigQuery gives them in the order of the table; the emulator in the order that was asked for.
    rows = entries_to_arrow([entry("gs://b/1.jpg")])
    [batch] = rows.select(list(reversed(rows.column_names))).to_batches()
    assert list(_entries(batch)) == [entry("gs://b/1.jpg")]
