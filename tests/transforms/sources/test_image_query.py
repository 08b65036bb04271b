from collections.abc import Iterator

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator

from transforms.bigquery.client import TableName
from transforms.errors import RequestError
from transforms.records import CarriedColumn
from transforms.sources.image_query import QueryRows, rows_table, run_image_query, table_query

RUN_ID = "20261120T063000Z-0a1b2c3d"
COLUMNS = (CarriedColumn("price", "float64"), CarriedColumn("Label"))


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        warehouse.query("CREATE TABLE photos (uri STRING, price FLOAT64, label STRING, n INT64)")
        warehouse.query(
            "INSERT INTO photos VALUES ('gs://b/1.jpg', 0.5, 'cat', 1), ('gs://b/2.jpg', 1.5, "
            "NULL, 2), (NULL, 2.5, 'dog', 3)"
        )
        yield warehouse


@pytest.fixture
def photos(warehouse: Warehouse) -> TableName:
    return TableName.parse(warehouse.table("photos"))


def run(
    query: str,
    photos: TableName,
    uri_column: str = "uri",
    columns: tuple[CarriedColumn, ...] = (),
) -> QueryRows:
    return run_image_query(query, rows_table(photos, RUN_ID), RUN_ID, uri_column, columns)


def test_the_wanted_columns_of_all_rows_are_kept(warehouse: Warehouse, photos: TableName) -> None:
    rows = run(table_query(photos), photos, columns=COLUMNS)
    assert rows == QueryRows(rows_table(photos, RUN_ID), 3, "uri", COLUMNS)
    kept = warehouse.query(f"SELECT * FROM {rows.table.sql} ORDER BY price")
    assert kept == [
        {"uri": "gs://b/1.jpg", "price": 0.5, "Label": "cat"},
        {"uri": "gs://b/2.jpg", "price": 1.5, "Label": None},
        {"uri": None, "price": 2.5, "Label": "dog"},
    ]


def test_the_rows_are_of_their_time_and_paid_for_once(
    warehouse: Warehouse, photos: TableName
) -> None:
    query = f"SELECT uri FROM {photos.sql}"
    first = run(query, photos)
    warehouse.query("INSERT INTO photos (uri) VALUES ('gs://b/3.jpg')")
    assert run(query, photos) == first
    made = [job for job in warehouse.jobs() if "CREATE OR REPLACE TABLE" in str(job)]
    assert len(made) == 1
    assert "expiration_timestamp" in str(made[0])


@pytest.mark.parametrize(
    "form",
    [
        "SELECT uri FROM {table} ORDER BY n LIMIT 2;",
        "SELECT uri FROM {table} LIMIT 2 -- the first",
        "WITH a AS (SELECT * FROM {table}) SELECT uri FROM a WHERE n < 3",
        "SELECT uri AS uri FROM {table} WHERE n = 1 UNION ALL SELECT 'gs://b/c;d.jpg'",
        "  # a comment\n SELECT uri FROM {table} WHERE n < 3 ;\n ",
    ],
)
def test_every_form_of_a_select_will_do(photos: TableName, form: str) -> None:
    assert run(form.format(table=photos.sql), photos).row_count == 2


def test_the_uri_may_be_a_column_of_any_name(photos: TableName) -> None:
    rows = run(f"SELECT uri AS image FROM {photos.sql}", photos, "image")
    assert rows.uri_column == "image"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT uri FROM {table} WHERE n > 9", "the query gives no rows"),
        ("SELECT uri FROM {table} WHERE uri IS NULL", "gives no URIs: .* empty in all 1 rows"),
        ("SELECT '  ' AS uri", "gives no URIs"),
        ("SELECT n AS uri FROM {table}", "'uri' is INTEGER, but URIs are STRING"),
        ("SELECT [uri] AS uri FROM {table}", "'uri' is ARRAY<STRING>, but URIs are STRING"),
        ("SELECT uri AS urj, n FROM {table}", "no column 'uri'; did you mean 'urj'. .* 'urj', 'n'"),
        ("SELECT n FROM {table}", "no column 'uri'; It gives 'n'"),
        ("SELEC uri FROM {table}", "correct the query"),
        ("SELECT uri FROM nowhere.photos", "create the dataset"),
    ],
)
def test_a_query_that_gives_nothing_to_embed_is_refused(
    warehouse: Warehouse, photos: TableName, query: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        run(query.format(table=photos.sql), photos)


def test_a_wrong_query_is_not_run(warehouse: Warehouse, photos: TableName) -> None:
    before = len(warehouse.jobs())
    with pytest.raises(RequestError, match="did you mean 'price'"):
        run(table_query(photos), photos, columns=(CarriedColumn("prise"),))
    assert len(warehouse.jobs()) == before


def test_a_dataset_that_is_not_there_is_named(photos: TableName) -> None:
    nowhere = TableName(photos.project, "nowhere", "t")
    with pytest.raises(RequestError, match="bq mk --dataset"):
        run_image_query("SELECT 'gs://b/1.jpg' AS uri", rows_table(nowhere, RUN_ID), RUN_ID)


def test_a_lost_permission_is_said_with_what_to_grant(
    warehouse: Warehouse, photos: TableName
) -> None:
    message = "Access Denied: Project p: User does not have bigquery.jobs.create permission"
    warehouse.plant_fault("POST .*/jobs", status=403, reason="accessDenied", message=message)
    with pytest.raises(RequestError, match=r"grant roles/bigquery\.jobUser"):
        run(table_query(photos), photos)
