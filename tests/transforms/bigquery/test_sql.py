"""What the statements do to a table, run against an emulator."""

from collections.abc import Iterator

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator

from transforms.bigquery.client import Jobs
from transforms.bigquery.sql import (
    count_duplicates_sql,
    count_older_sql,
    merge_sql,
    prune_sql,
    remove_duplicates_sql,
)
from transforms.bigquery.table import set_parameters
from transforms.formats.embedding_table import Provenance

MODEL = Provenance("m", "m1", "p1", "float32")
COLUMNS = (
    *("uri", "model_fingerprint", "preprocess_fingerprint", "precision", "run_id"),
    *("embedded_at", "embedding", "label"),
)
COLUMN_TYPES = (
    "(uri STRING, model_fingerprint STRING, preprocess_fingerprint STRING, `precision` STRING, "
    "run_id STRING, embedded_at TIMESTAMP, embedding ARRAY<FLOAT64>, label STRING)"
)


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        emulated.query(f"CREATE TABLE t {COLUMN_TYPES}")
        emulated.query(f"CREATE TABLE staging {COLUMN_TYPES}")
        yield emulated


def insert(warehouse: Warehouse, table: str, *rows: tuple[str, str, int, str]) -> None:
    """URI, run, second at which it was embedded, model."""
    values = ", ".join(
        f"('{uri}', '{model}', 'p1', 'float32', '{run}', TIMESTAMP_SECONDS({second}), "
        f"[{second}.5], '{run}')"
        for uri, run, second, model in rows
    )
    warehouse.query(f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES {values}")


def rows(warehouse: Warehouse) -> list[tuple[str, str, float, str, str]]:
    found = warehouse.query("SELECT * FROM t ORDER BY uri, model_fingerprint, run_id")
    return [
        (row["uri"], row["run_id"], row["embedding"][0], row["label"], row["model_fingerprint"])
        for row in found
    ]


def run(warehouse: Warehouse, sql: str) -> None:
    Jobs(warehouse.project).run_query(sql, set_parameters(MODEL))


def names(warehouse: Warehouse) -> tuple[str, str]:
    return f"`{warehouse.table('t')}`", f"`{warehouse.table('staging')}`"


def merge(warehouse: Warehouse, *, replace: bool = True) -> None:
    run(warehouse, merge_sql(*names(warehouse), COLUMNS, replace=replace))


def older(warehouse: Warehouse) -> int:
    sql = count_older_sql(*names(warehouse))
    [row] = Jobs(warehouse.project).query_rows(sql, set_parameters(MODEL))
    return int(row["older"])


def duplicated(warehouse: Warehouse) -> int:
    sql = count_duplicates_sql(f"`{warehouse.table('t')}`")
    [row] = Jobs(warehouse.project).query_rows(sql, set_parameters(MODEL))
    return int(row["duplicated"])


def test_new_rows_are_inserted_older_ones_replaced_and_newer_ones_kept(
    warehouse: Warehouse,
) -> None:
    insert(warehouse, "t", ("older", "r1", 10, "m1"), ("newer", "r3", 30, "m1"))
    insert(
        warehouse,
        "staging",
        ("new", "r2", 20, "m1"),
        ("older", "r2", 20, "m1"),
        ("newer", "r2", 20, "m1"),
    )
    expected = [
        ("new", "r2", 20.5, "r2", "m1"),
        ("newer", "r3", 30.5, "r3", "m1"),
        ("older", "r2", 20.5, "r2", "m1"),
    ]
    assert older(warehouse) == 1
    merge(warehouse)
    assert rows(warehouse) == expected
    assert older(warehouse) == 0
    merge(warehouse)
    assert rows(warehouse) == expected


def test_without_replacing_only_new_rows_are_inserted(warehouse: Warehouse) -> None:
    insert(warehouse, "t", ("there", "r1", 10, "m1"))
    insert(warehouse, "staging", ("there", "r2", 20, "m1"), ("new", "r2", 20, "m1"))
    expected = [("new", "r2", 20.5, "r2", "m1"), ("there", "r1", 10.5, "r1", "m1")]
    for _ in range(2):
        merge(warehouse, replace=False)
        assert rows(warehouse) == expected


def test_rows_of_another_model_are_never_older(warehouse: Warehouse) -> None:
    insert(warehouse, "t", ("a", "r1", 10, "m2"))
    insert(warehouse, "staging", ("a", "r2", 20, "m1"))
    assert older(warehouse) == 0


def test_of_several_rows_of_one_uri_the_newest_is_merged(warehouse: Warehouse) -> None:
    insert(
        warehouse, "staging", ("a", "r1", 10, "m1"), ("a", "r1", 12, "m1"), ("a", "r1", 11, "m1")
    )
    merge(warehouse)
    assert rows(warehouse) == [("a", "r1", 12.5, "r1", "m1")]


def test_the_later_run_counts_whatever_the_clocks_of_the_workers_say(warehouse: Warehouse) -> None:
    insert(warehouse, "t", ("a", "r1", 30, "m1"), ("b", "r3", 10, "m1"), ("c", "r1", 20, "m1"))
    insert(warehouse, "staging", *((uri, "r2", 20, "m1") for uri in "abc"))
    assert older(warehouse) == 2
    merge(warehouse)
    assert [row[:2] for row in rows(warehouse)] == [("a", "r2"), ("b", "r3"), ("c", "r2")]
    insert(warehouse, "t", ("a", "r3", 10, "m1"))
    run(warehouse, remove_duplicates_sql(f"`{warehouse.table('t')}`", COLUMNS))
    assert [row[:2] for row in rows(warehouse)] == [("a", "r3"), ("b", "r3"), ("c", "r2")]


@pytest.mark.parametrize("missing", ["run_id", "embedded_at"])
def test_a_row_that_says_not_when_it_was_made_is_replaced(
    warehouse: Warehouse, missing: str
) -> None:
    insert(warehouse, "t", ("a", "r9", 90, "m1"))
    warehouse.query(f"UPDATE t SET {missing} = NULL WHERE TRUE")
    insert(warehouse, "staging", ("a", "r2", 20, "m1"))
    assert older(warehouse) == 1
    merge(warehouse)
    assert older(warehouse) == 0
    assert [row[:2] for row in rows(warehouse)] == [("a", "r2")]


def test_rows_without_a_uri_are_no_duplicates_of_each_other(warehouse: Warehouse) -> None:
    insert(warehouse, "t", ("a", "r1", 10, "m1"), ("b", "r1", 10, "m1"), ("b", "r1", 10, "m1"))
    warehouse.query("INSERT INTO t SELECT * REPLACE (NULL AS uri) FROM t WHERE uri = 'b'")
    assert duplicated(warehouse) == 1
    for _ in range(2):
        run(warehouse, remove_duplicates_sql(f"`{warehouse.table('t')}`", COLUMNS))
        assert duplicated(warehouse) == 0
        found = warehouse.query("SELECT uri FROM t ORDER BY uri")
        assert [row["uri"] for row in found] == [None, None, "a", "b"]


def test_the_rows_of_another_model_are_other_rows(warehouse: Warehouse) -> None:
    insert(warehouse, "t", ("a", "r1", 10, "m2"))
    insert(warehouse, "staging", ("a", "r2", 20, "m1"))
    merge(warehouse)
    assert rows(warehouse) == [("a", "r2", 20.5, "r2", "m1"), ("a", "r1", 10.5, "r1", "m2")]


def test_of_duplicates_the_newest_stays_even_where_they_are_equal(warehouse: Warehouse) -> None:
    insert(
        warehouse,
        "t",
        ("equal", "r1", 10, "m1"),
        ("equal", "r1", 10, "m1"),
        ("equal", "r1", 10, "m1"),
        ("differ", "r1", 10, "m1"),
        ("differ", "r2", 20, "m1"),
        ("single", "r1", 10, "m1"),
        ("equal", "r1", 10, "m2"),
        ("equal", "r1", 10, "m2"),
    )
    assert duplicated(warehouse) == 2
    run(warehouse, remove_duplicates_sql(f"`{warehouse.table('t')}`", COLUMNS))
    assert duplicated(warehouse) == 0
    assert rows(warehouse) == [
        ("differ", "r2", 20.5, "r2", "m1"),
        ("equal", "r1", 10.5, "r1", "m1"),
        # Those of another model are none of this run's business.
        ("equal", "r1", 10.5, "r1", "m2"),
        ("equal", "r1", 10.5, "r1", "m2"),
        ("single", "r1", 10.5, "r1", "m1"),
    ]


def test_gone_rows_are_deleted_as_they_were_seen_and_no_newer_ones(warehouse: Warehouse) -> None:
    insert(
        warehouse,
        "t",
        ("gone", "r1", 10, "m1"),
        ("gone", "r1", 10, "m2"),
        # A run that began between the last one and this one, on a worker with a slow clock.
        ("back", "r2", 5, "m1"),
        ("again", "r1", 15, "m1"),
        ("older", "r0", 5, "m1"),
        ("stays", "r1", 10, "m1"),
    )
    insert(
        warehouse,
        "staging",
        *((uri, "r1", 10, "m1") for uri in ("gone", "gone", "back", "again", "older", "never")),
    )
    sql = prune_sql(*names(warehouse))
    for _ in range(2):
        run(warehouse, sql)
        assert [(row[0], row[4]) for row in rows(warehouse)] == [
            ("again", "m1"),
            ("back", "m1"),
            ("gone", "m2"),
            ("stays", "m1"),
        ]


def test_columns_may_be_named_like_words_of_sql(warehouse: Warehouse) -> None:
    columns = (*COLUMNS, "select", "action")
    for table in ("t", "staging"):
        warehouse.query(f"ALTER TABLE {table} ADD COLUMN `select` STRING")
        warehouse.query(f"ALTER TABLE {table} ADD COLUMN `action` STRING")
    insert(warehouse, "staging", ("a", "r1", 10, "m1"))
    warehouse.query("UPDATE staging SET `select` = 's', `action` = 'delete' WHERE TRUE")
    table, staging = names(warehouse)
    run(warehouse, merge_sql(table, staging, columns, replace=True))
    warehouse.query("INSERT INTO t SELECT * FROM t")
    run(warehouse, remove_duplicates_sql(table, columns))
    [row] = warehouse.query("SELECT `select`, `action` FROM t")
    assert row == {"select": "s", "action": "delete"}
