"""What is made, checked and refused before a job writes into a table."""

from collections.abc import Iterator

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from google.cloud.bigquery import SchemaField, Table
from table_runs import (
    FIRST,
    LAYOUT,
    MODEL,
    OTHER_MODEL,
    SECOND,
    embedding,
    new_table,
    stage,
    stamp,
    tables,
)

from transforms.bigquery.client import TableName
from transforms.bigquery.merge import merge_run
from transforms.bigquery.schema import table_schema
from transforms.bigquery.table import VectorSet, prepare_table, table_sets
from transforms.errors import RequestError
from transforms.formats.embedding_table import Provenance
from transforms.records import CarriedColumn, OutputLayout

COLUMNS = [field.name for field in table_schema(LAYOUT, ())]


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


def write(
    warehouse: Warehouse, table: TableName, model: Provenance, run_id: str, *uris: str
) -> None:
    stage(warehouse, table, stamp(run_id, model), [embedding(uri) for uri in uris])
    merge_run(table, run_id, model, COLUMNS)


def test_a_new_table_is_partitioned_clustered_and_described(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    made = warehouse.client().get_table(str(table))
    assert made.time_partitioning.field == "embedded_at"
    assert made.time_partitioning.type_ == "DAY"
    assert made.clustering_fields == ["model_fingerprint", "uri"]
    assert [field.name for field in made.schema] == COLUMNS
    assert tables(warehouse) == {"embeddings", "embeddings_runs"}


def test_a_table_that_fits_is_taken_as_it_is(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    write(warehouse, table, MODEL, FIRST, "a")
    prepare_table(table, LAYOUT, (), MODEL)
    [row] = warehouse.query("SELECT COUNT(*) AS n FROM embeddings")
    assert row["n"] == 1


def test_what_does_not_fit_is_named_at_once_with_statements_that_mend_it(
    warehouse: Warehouse,
) -> None:
    table = TableName.parse(warehouse.table("embeddings"))
    narrow = [
        field if field.name != "width" else SchemaField("width", "STRING")
        for field in table_schema(LAYOUT, ())
        if field.name != "sha256"
    ]
    warehouse.client().create_table(Table(str(table), narrow))
    with pytest.raises(RequestError) as caught:
        prepare_table(table, LAYOUT, (CarriedColumn("label"),), MODEL)
    says, *statements = str(caught.value).splitlines()
    assert says.startswith(
        f"the columns of {table} do not fit: sha256 is missing; width is STRING instead of INT64; "
        "label is missing."
    )
    for statement in statements:
        warehouse.query(statement)
    warehouse.query("INSERT INTO embeddings (sha256, width, label) VALUES ('f00', 640, 'cat')")
    [row] = warehouse.query("SELECT sha256, width + 1 AS wider, label FROM embeddings")
    assert row == {"sha256": "f00", "wider": 641, "label": "cat"}


def test_a_dataset_that_is_not_there_is_a_wrong_request(warehouse: Warehouse) -> None:
    table = TableName(warehouse.project, "nowhere", "embeddings")
    with pytest.raises(RequestError, match=r"nowhere.*bq mk --dataset"):
        prepare_table(table, LAYOUT, (), MODEL)


@pytest.mark.parametrize("request_to", ["GET .*/datasets/", "POST .*/tables"])
def test_a_missing_permission_is_a_wrong_request_that_says_what_to_grant(
    warehouse: Warehouse, request_to: str
) -> None:
    warehouse.plant_fault(
        request_to, status=403, reason="accessDenied", message="Access Denied: Dataset", times=99
    )
    with pytest.raises(RequestError, match=r"grant roles/bigquery\.dataEditor"):
        new_table(warehouse)


def test_a_view_is_no_table(warehouse: Warehouse) -> None:
    warehouse.query("CREATE VIEW embeddings AS SELECT 'a' AS uri")
    with pytest.raises(RequestError, match="embeddings is a VIEW, not a table"):
        new_table(warehouse)


def test_another_models_table_is_refused_unless_it_is_allowed(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    write(warehouse, table, MODEL, FIRST, "a", "b")
    with pytest.raises(RequestError) as caught:
        prepare_table(table, LAYOUT, (), OTHER_MODEL)
    message = str(caught.value)
    assert "2 rows of gs://models/a (fingerprint aaaaaaaaaaaaaaaa" in message
    assert "gs://models/b (fingerprint bbbbbbbbbbbbbbbb" in message
    assert "--allow-other-models" in message
    prepare_table(table, LAYOUT, (), OTHER_MODEL, allow_other_models=True)


@pytest.mark.parametrize(
    "other",
    [
        Provenance(MODEL.model_handle, MODEL.model_fingerprint, "d" * 16),
        Provenance(
            MODEL.model_handle, MODEL.model_fingerprint, MODEL.preprocess_fingerprint, "bfloat16"
        ),
    ],
)
def test_so_is_another_contract_or_precision(warehouse: Warehouse, other: Provenance) -> None:
    table = new_table(warehouse)
    write(warehouse, table, MODEL, FIRST, "a")
    with pytest.raises(RequestError, match="allow-other-models"):
        prepare_table(table, LAYOUT, (), other)


def test_the_same_model_at_another_place_is_no_other_model(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    write(warehouse, table, MODEL, FIRST, "a")
    moved = Provenance("/copies/a", MODEL.model_fingerprint, MODEL.preprocess_fingerprint)
    prepare_table(table, LAYOUT, (), moved)


def test_once_its_own_rows_are_there_a_job_needs_no_flag(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    write(warehouse, table, MODEL, FIRST, "a")
    write(warehouse, table, OTHER_MODEL, SECOND, "a")
    prepare_table(table, LAYOUT, (), OTHER_MODEL)


def test_the_sets_of_a_table_are_told_with_their_sizes_and_widths(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    assert table_sets(table) == []
    write(warehouse, table, MODEL, FIRST, "a")
    write(warehouse, table, OTHER_MODEL, SECOND, "a", "b")
    assert table_sets(table) == [
        VectorSet(OTHER_MODEL, row_count=2, embedding_width=3),
        VectorSet(MODEL, row_count=1, embedding_width=3),
    ]


def test_where_there_is_no_table_there_are_no_sets(warehouse: Warehouse) -> None:
    assert table_sets(TableName.parse(warehouse.table("embeddings"))) == []
    with pytest.raises(RequestError, match="bq mk --dataset"):
        table_sets(TableName(warehouse.project, "nowhere", "embeddings"))


def test_a_table_of_something_else_has_no_sets(warehouse: Warehouse) -> None:
    warehouse.query("CREATE TABLE embeddings (uri STRING, model STRING, price FLOAT64)")
    with pytest.raises(RequestError, match="no table of embeddings: it has no column model_finger"):
        table_sets(TableName.parse(warehouse.table("embeddings")))


def test_a_table_without_embeddings_takes_logits_alone(warehouse: Warehouse) -> None:
    table = TableName.parse(warehouse.table("logits"))
    layout = OutputLayout(0, classes=3, writes_logits=True)
    prepare_table(table, layout, (), MODEL)
    made = warehouse.client().get_table(str(table))
    assert [field.name for field in made.schema] == [*COLUMNS, "logits"]
