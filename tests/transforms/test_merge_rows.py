"""MergeRows: from the embeddings of a run to the table, with the steps as they stand in the job."""

from collections.abc import Iterator, Sequence

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from bigquery_emulator import Warehouse, bigquery_emulator
from table_runs import FIRST, MODEL, SECOND, contents, embedding, new_table, stamp, tables

from transforms.bigquery.client import TableName
from transforms.ledgers.ledger import ledger_entry
from transforms.merge_rows import MergeParts, MergeRows
from transforms.records import Embedding, LedgerEntry
from transforms.storage.output_storage import paths_starting_with as list_files
from transforms.write_table_rows import WriteTableRows


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


def run(
    warehouse: Warehouse,
    table: TableName,
    run_id: str,
    embeddings: Sequence[Embedding],
    gone: Sequence[LedgerEntry] = (),
    *,
    prune: bool = False,
    expected_count: int | None = None,
) -> None:
    """Write, check that so many rows were loaded, and merge."""
    folder = f"{warehouse.bucket}/{run_id}"
    wanted = len(embeddings) if expected_count is None else expected_count

    def check(loaded: int) -> dict[str, int]:
        if loaded != wanted:
            raise RuntimeError(f"{loaded} rows instead of {wanted}")
        return {"embedded": loaded}

    with TestPipeline(runner="FnApiRunner") as pipeline:
        rows = (
            pipeline
            | "Embeddings" >> beam.Create(list(embeddings))
            | WriteTableRows(table, stamp(run_id), folder)
        )
        checked = rows.loaded | "Check" >> beam.Map(check)
        gone_rows = pipeline | "Gone" >> beam.Create(list(gone))
        merged = MergeParts(checked, gone_rows) | MergeRows(table, stamp(run_id), folder, prune)
        assert_that(merged, equal_to([{"embedded": wanted}]))


def test_the_rows_of_a_checked_run_are_merged_and_the_report_is_handed_on(
    warehouse: Warehouse,
) -> None:
    table = new_table(warehouse)
    run(warehouse, table, FIRST, [embedding(f"image {n}", value=n) for n in range(50)])
    assert list_files(f"{warehouse.bucket}/{FIRST}/") == []
    assert contents(warehouse) == sorted((f"image {n}", "a", FIRST, float(n)) for n in range(50))
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_of_a_run_that_fails_its_check_nothing_reaches_the_table(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    run(warehouse, table, FIRST, [embedding("a")])
    with pytest.raises(Exception, match="1 rows instead of 2"):
        run(warehouse, table, SECOND, [embedding("a", 2_000.0)], expected_count=2)
    assert contents(warehouse) == [("a", "a", FIRST, 0.0)]
    assert len(list_files(f"{warehouse.bucket}/{SECOND}/")) == 1


@pytest.mark.parametrize("prune", [False, True])
def test_gone_images_leave_the_table_only_where_it_is_asked_for(
    warehouse: Warehouse, prune: bool
) -> None:
    table = new_table(warehouse)
    run(warehouse, table, FIRST, [embedding("a"), embedding("b", 1_234.567891)])
    gone = [ledger_entry(embedding("b", 1_234.567891), MODEL, FIRST)]
    run(warehouse, table, SECOND, [embedding("c", 2_000.0)], gone=gone, prune=prune)
    left = ["a", "c"] if prune else ["a", "b", "c"]
    assert [row[0] for row in contents(warehouse)] == left
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_a_run_that_finds_nothing_new_and_nothing_gone_ends_well(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    run(warehouse, table, FIRST, [], prune=True)
    assert contents(warehouse) == []
