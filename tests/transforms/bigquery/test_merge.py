"""From staging into the table: one row each, wherever a worker dies and however runs overlap."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from table_runs import (
    FIRST,
    LAYOUT,
    MODEL,
    OTHER_MODEL,
    SECOND,
    THIRD,
    contents,
    embedding,
    new_table,
    stage,
    stamp,
    tables,
)

from transforms.bigquery.client import TableName
from transforms.bigquery.load import staging_table
from transforms.bigquery.merge import merge_run
from transforms.bigquery.schema import table_schema
from transforms.errors import JobError
from transforms.formats.embedding_table import Provenance
from transforms.formats.row_files import write_row_file
from transforms.ledgers.ledger import entries_to_arrow, ledger_entry

COLUMNS = [field.name for field in table_schema(LAYOUT, ())]
STATEMENT = r'POST .*/jobs .*"query": "MERGE'


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


@pytest.fixture
def table(warehouse: Warehouse) -> TableName:
    return new_table(warehouse)


def merge(
    table: TableName, run_id: str, model: Provenance = MODEL, gone: list[str] | None = None
) -> None:
    merge_run(table, run_id, model, COLUMNS, gone)


def run(
    warehouse: Warehouse, table: TableName, run_id: str, *uris: str, at: float = 1_000.0
) -> None:
    stage(warehouse, table, stamp(run_id), [embedding(uri, at, at) for uri in uris])
    merge(table, run_id)


def gone_file(warehouse: Warehouse, *uris: str, seen: str = FIRST) -> str:
    """The rows that a run has written, as a later one has seen them."""
    path = f"{warehouse.bucket}/gone-{len(uris)}.parquet"
    rows = [ledger_entry(embedding(uri), MODEL, seen) for uri in uris]
    write_row_file(path, entries_to_arrow(rows).select(["uri", "run_id", "embedded_at"]))
    return path


def test_the_rows_are_in_the_table_and_the_staging_table_is_gone(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a", "b")
    assert contents(warehouse) == [("a", "a", FIRST, 1000.0), ("b", "a", FIRST, 1000.0)]
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_a_run_without_rows_changes_nothing(warehouse: Warehouse, table: TableName) -> None:
    run(warehouse, table, FIRST, "a")
    run(warehouse, table, SECOND)
    assert contents(warehouse) == [("a", "a", FIRST, 1000.0)]


def test_a_worker_that_dies_between_load_and_merge_loses_nothing(
    warehouse: Warehouse, table: TableName
) -> None:
    rows = [embedding("a", value=1.0), embedding("b", value=1.0)]
    stage(warehouse, table, stamp(FIRST), rows)
    assert contents(warehouse) == []
    merge(table, FIRST)
    assert contents(warehouse) == [("a", "a", FIRST, 1.0), ("b", "a", FIRST, 1.0)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_at_the_drop_can_be_followed_by_another(
    warehouse: Warehouse, table: TableName, when: str
) -> None:
    stage(warehouse, table, stamp(FIRST), [embedding("a")])
    warehouse.plant_fault(
        r"DELETE .*/tables/",
        status=403,
        reason="accessDenied",
        when=when,  # type: ignore[arg-type]
    )
    with pytest.raises(JobError):
        merge(table, FIRST)
    merge(table, FIRST)
    assert contents(warehouse) == [("a", "a", FIRST, 0.0)]
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_after_the_drop_the_whole_step_can_be_run_again(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a")
    run(warehouse, table, SECOND, "a", at=2_000.0)
    merge(table, FIRST)
    merge(table, SECOND)
    assert contents(warehouse) == [("a", "a", SECOND, 2000.0)]


@pytest.mark.parametrize(
    ("when", "reason", "message"),
    [
        ("before", "backendError", "planted"),
        ("after", "backendError", "planted"),
        ("job", "backendError", "planted"),
        (
            "job",
            "invalidQuery",
            "Could not serialize access to table embeddings due to concurrent update",
        ),
    ],
)
def test_a_merge_that_fails_for_the_moment_is_done_once(
    warehouse: Warehouse, table: TableName, when: str, reason: str, message: str
) -> None:
    stage(warehouse, table, stamp(FIRST), [embedding("a")])
    warehouse.plant_fault(STATEMENT, when=when, reason=reason, message=message)  # type: ignore[arg-type]
    merge(table, FIRST)
    assert contents(warehouse) == [("a", "a", FIRST, 0.0)]


def test_a_permission_that_is_lost_leaves_the_table_as_it_was(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a")
    stage(warehouse, table, stamp(SECOND), [embedding("a", 2_000.0), embedding("b", 2_000.0)])
    warehouse.plant_fault(
        STATEMENT, status=403, reason="accessDenied", message="Access Denied: Table embeddings"
    )
    with pytest.raises(JobError, match=r"grant roles/bigquery\.dataEditor"):
        merge(table, SECOND)
    assert contents(warehouse) == [("a", "a", FIRST, 1000.0)]
    merge(table, SECOND)
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", SECOND), ("b", "a", SECOND)]


def test_an_older_run_that_is_merged_late_replaces_nothing_newer(
    warehouse: Warehouse, table: TableName
) -> None:
    stage(warehouse, table, stamp(FIRST), [embedding("a", 1_000.0), embedding("b", 1_000.0)])
    run(warehouse, table, SECOND, "a", at=2_000.0)
    merge(table, FIRST)
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", SECOND), ("b", "a", FIRST)]


def test_only_a_run_that_replaces_rows_may_update(warehouse: Warehouse, table: TableName) -> None:
    """What may update is billed with all vectors of the table."""
    run(warehouse, table, FIRST, "a", "b")
    run(warehouse, table, SECOND, "c", at=2_000.0)

    def updates() -> int:
        return sum("UPDATE SET" in str(job["configuration"]) for job in warehouse.jobs())

    assert updates() == 0
    run(warehouse, table, THIRD, "c", "d", at=3_000.0)
    assert updates() == 1
    assert [row[:3] for row in contents(warehouse)][2:] == [("c", "a", THIRD), ("d", "a", THIRD)]


def test_an_older_row_that_appears_at_the_last_moment_is_replaced(
    warehouse: Warehouse, table: TableName
) -> None:
    """Of a run that overlaps, between the look at the table and the insertion."""
    stage(warehouse, table, stamp(SECOND), [embedding("a", 2_000.0), embedding("b", 2_000.0)])
    warehouse.plant_fault(STATEMENT, status=403, reason="accessDenied")
    with pytest.raises(JobError):
        merge(table, SECOND)
    run(warehouse, table, FIRST, "a", at=1_000.0)
    merge(table, SECOND)
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", SECOND), ("b", "a", SECOND)]


def test_what_two_merges_at_once_both_insert_stays_once(
    warehouse: Warehouse, table: TableName
) -> None:
    """BigQuery shows two statements the table before either, and lets both insert."""
    run(warehouse, table, FIRST, "a", "b", at=1_000.0)
    stage(warehouse, table, stamp(SECOND), [embedding("b", 2_000.0), embedding("c", 2_000.0)])
    # What the merge of the second run does while it cannot see the rows of the first.
    staging = staging_table(table, SECOND).table
    warehouse.query(f"INSERT INTO embeddings SELECT * FROM {staging}")
    assert len(contents(warehouse)) == 4
    merge(table, SECOND)
    assert [row[:3] for row in contents(warehouse)] == [
        ("a", "a", FIRST),
        ("b", "a", SECOND),
        ("c", "a", SECOND),
    ]


def test_duplicates_that_a_dead_run_left_go_with_the_next_one(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a", at=1_000.0)
    warehouse.query("INSERT INTO embeddings SELECT * FROM embeddings")
    # Its merge replaces both rows of the URI, so that they are equal.
    run(warehouse, table, SECOND, "a", at=2_000.0)
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", SECOND)]


def test_runs_that_end_at_the_same_time_leave_one_row_each(
    warehouse: Warehouse, table: TableName
) -> None:
    run_ids = (FIRST, SECOND, THIRD)
    for number, run_id in enumerate(run_ids):
        uris = [f"image {n}" for n in range(10 * number, 10 * number + 20)]
        rows = [embedding(uri, 1_000.0 + number) for uri in uris]
        stage(warehouse, table, stamp(run_id), rows)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda run_id: merge(table, run_id), run_ids))
    found = contents(warehouse)
    assert sorted(row[0] for row in found) == sorted(f"image {n}" for n in range(40))
    assert {row[0]: row[2] for row in found}["image 15"] == SECOND
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_two_workers_on_the_same_step_do_it_once(warehouse: Warehouse, table: TableName) -> None:
    stage(warehouse, table, stamp(FIRST), [embedding("a"), embedding("b")])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: merge(table, FIRST), range(2)))
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", FIRST), ("b", "a", FIRST)]


def test_the_vectors_of_two_models_stand_side_by_side(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a", "b")
    stage(warehouse, table, stamp(SECOND, OTHER_MODEL), [embedding("a", 2_000.0)])
    merge(table, SECOND, OTHER_MODEL)
    assert [row[:3] for row in contents(warehouse)] == [
        ("a", "a", FIRST),
        ("a", "b", SECOND),
        ("b", "a", FIRST),
    ]


def test_pruning_takes_the_rows_of_this_model_that_are_gone(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a", "b", "c")
    stage(warehouse, table, stamp(SECOND, OTHER_MODEL), [embedding("b")])
    merge(table, SECOND, OTHER_MODEL)
    stage(warehouse, table, stamp(THIRD), [embedding("d", 2_000.0)])
    gone = [gone_file(warehouse, "b", "never there"), gone_file(warehouse, "c")]
    for _ in range(2):
        merge(table, THIRD, gone=gone)
        assert [row[:2] for row in contents(warehouse)] == [("a", "a"), ("b", "b"), ("d", "a")]


def test_a_row_that_a_later_run_wrote_is_not_pruned(warehouse: Warehouse, table: TableName) -> None:
    run(warehouse, table, FIRST, "a", "b")
    stage(warehouse, table, stamp(SECOND), [])
    run(warehouse, table, THIRD, "b", at=3_000.0)
    merge(table, SECOND, gone=[gone_file(warehouse, "a", "b")])
    assert [row[:3] for row in contents(warehouse)] == [("b", "a", THIRD)]


def test_a_row_that_an_earlier_run_wrote_meanwhile_is_not_pruned(
    warehouse: Warehouse, table: TableName
) -> None:
    run(warehouse, table, FIRST, "a", "b")
    stage(warehouse, table, stamp(THIRD), [])
    # It began before the one that prunes, and found the image again behind its back.
    run(warehouse, table, SECOND, "b", at=3_000.0)
    merge(table, THIRD, gone=[gone_file(warehouse, "a", "b")])
    assert [row[:3] for row in contents(warehouse)] == [("b", "a", SECOND)]


def test_pruning_that_breaks_off_can_be_run_again(warehouse: Warehouse, table: TableName) -> None:
    run(warehouse, table, FIRST, "a", "b")
    stage(warehouse, table, stamp(SECOND), [])
    gone = [gone_file(warehouse, "b")]
    warehouse.plant_fault(
        r"POST .*/jobs .*_prune_", status=403, reason="accessDenied", when="after"
    )
    with pytest.raises(JobError):
        merge(table, SECOND, gone=gone)
    run(warehouse, table, THIRD, "b", at=3_000.0)
    merge(table, SECOND, gone=gone)
    assert [row[:3] for row in contents(warehouse)] == [("a", "a", FIRST), ("b", "a", THIRD)]
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}
