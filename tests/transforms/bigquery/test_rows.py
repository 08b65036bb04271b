import pickle
from collections.abc import Iterator

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator

from transforms.bigquery.client import TableName
from transforms.bigquery.rows import open_streams, read_stream, string_literal
from transforms.errors import JobError

COUNT = 3000


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        # Large enough for several streams.
        warehouse.query("CREATE TABLE rows (n INT64, text STRING, vector ARRAY<FLOAT64>)")
        warehouse.query(
            "INSERT INTO rows SELECT n, REPEAT('x', 1000), [1.0, n] "
            f"FROM UNNEST(GENERATE_ARRAY(1, {COUNT})) AS n"
        )
        yield warehouse


@pytest.fixture(scope="module")
def table(warehouse: Warehouse) -> TableName:
    return TableName.parse(warehouse.table("rows"))


def test_every_row_lies_in_one_of_several_streams(table: TableName) -> None:
    streams = pickle.loads(pickle.dumps(open_streams(table, ["n", "text"])))
    assert len(streams) > 1
    numbers = [
        n
        for stream in streams
        for batch in read_stream(stream)
        for n in batch.column("n").to_pylist()
    ]
    assert sorted(numbers) == list(range(1, COUNT + 1))


def test_a_stream_read_again_gives_the_same_rows(table: TableName) -> None:
    stream = open_streams(table, ["n", "text"])[0]
    first, again = ([batch.to_pydict() for batch in read_stream(stream)] for _ in range(2))
    assert first == again


def test_a_stream_is_a_snapshot(warehouse: Warehouse) -> None:
    warehouse.query("CREATE TABLE changing AS SELECT 1 AS n")
    streams = open_streams(TableName.parse(warehouse.table("changing")), ["n"])
    warehouse.query("UPDATE changing SET n = 2 WHERE n = 1")
    [batch] = [batch for stream in streams for batch in read_stream(stream)]
    assert batch.to_pydict() == {"n": [1]}


def test_only_the_columns_and_the_rows_that_are_wanted_are_read(table: TableName) -> None:
    streams = open_streams(table, ["n"], "n > 2990 AND text IS NOT NULL")
    batches = [batch for stream in streams for batch in read_stream(stream)]
    assert {name for batch in batches for name in batch.schema.names} == {"n"}
    assert sorted(n for batch in batches for n in batch.column("n").to_pylist()) == list(
        range(2991, 3001)
    )


def test_an_empty_table_gives_no_rows(table: TableName) -> None:
    streams = open_streams(table, ["n"], "n < 0")
    assert sum(batch.num_rows for stream in streams for batch in read_stream(stream)) == 0


def test_a_table_that_is_not_there_is_named(table: TableName) -> None:
    with pytest.raises(JobError, match="rows_nowhere"):
        open_streams(table.sibling("_nowhere"), ["n"])


@pytest.mark.parametrize("text", ["", "it's", 'say "no"', "back\\slash", "line\nbreak", "größe 🎈"])
def test_a_text_is_the_same_as_a_string_of_a_statement(warehouse: Warehouse, text: str) -> None:
    assert warehouse.query(f"SELECT {string_literal(text)} AS text") == [{"text": text}]
