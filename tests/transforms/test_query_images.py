from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from bigquery_emulator import Warehouse, bigquery_emulator

from transforms.bigquery.client import TableName
from transforms.query_images import QueryImages
from transforms.records import CarriedColumn, ImageRef, Origin
from transforms.sources.image_query import QueryRows, rows_table, run_image_query, table_query

RUN_ID = "20261120T063000Z-0a1b2c3d"


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        yield warehouse


def kept_rows(warehouse: Warehouse, *columns: CarriedColumn) -> QueryRows:
    photos = TableName.parse(warehouse.table("photos"))
    result = rows_table(photos, RUN_ID)
    return run_image_query(table_query(photos), result, RUN_ID, "uri", columns)


def test_each_row_is_a_reference_or_a_failure(warehouse: Warehouse) -> None:
    warehouse.query("CREATE TABLE photos (day DATE, price FLOAT64, uri STRING)")
    warehouse.query(
        "INSERT INTO photos VALUES (DATE '2026-01-02', 2.0, 'gs://b/1.jpg'), "
        "(NULL, NULL, '/photos/2.jpg'), (NULL, 2.0, 'https://h/3.jpg'), "
        "(NULL, 2.5, 'gs://b/half.jpg'), (NULL, 1.0, NULL), (NULL, 1.0, 'relative.jpg')"
    )
    rows = kept_rows(warehouse, CarriedColumn("price", "int64"), CarriedColumn("day"))
    with TestPipeline(runner="FnApiRunner") as pipeline:
        queried = pipeline | QueryImages(rows)
        assert_that(
            queried.refs,
            equal_to(
                [
                    ImageRef("gs://b/1.jpg", origin=Origin(carried=(2, "2026-01-02"))),
                    ImageRef("/photos/2.jpg", origin=Origin(carried=(None, None))),
                    ImageRef("https://h/3.jpg", origin=Origin(carried=(2, None))),
                ]
            ),
            label="refs",
        )
        failures = queried.failed | beam.Map(
            lambda failure: (failure.uri, failure.stage, failure.error)
        )
        kept = f"bq://{rows.table}"
        assert_that(
            failures,
            equal_to(
                [
                    ("gs://b/half.jpg", "QueryImages", "InvalidColumn"),
                    (kept, "QueryImages", "InvalidUri"),
                    (kept, "QueryImages", "InvalidUri"),
                ]
            ),
            label="failures",
        )
        assert_that(queried.complete, equal_to([True]), label="complete")


def test_many_rows_are_read_from_several_streams_each_once(warehouse: Warehouse) -> None:
    warehouse.query(
        "CREATE TABLE photos AS SELECT CONCAT('gs://b/', REPEAT('x', 1000), n, '.jpg') AS uri "
        "FROM UNNEST(GENERATE_ARRAY(1, 3000)) AS n"
    )
    rows = kept_rows(warehouse)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        queried = pipeline | QueryImages(rows)
        distinct = queried.refs | beam.Map(lambda ref: ref.uri) | beam.Distinct()
        assert_that(
            distinct | beam.combiners.Count.Globally(), equal_to([3000]), label="all of them"
        )
        assert_that(queried.complete, equal_to([True]), label="complete")


def test_rows_that_are_lost_on_the_way_fail_the_job(warehouse: Warehouse) -> None:
    warehouse.query("CREATE TABLE photos AS SELECT 'gs://b/1.jpg' AS uri")
    rows = replace(kept_rows(warehouse), row_count=2)
    pipeline = TestPipeline(runner="FnApiRunner")
    _ = pipeline | QueryImages(rows)
    with pytest.raises(Exception, match="the query gave 2 rows, but 1 were read"):
        pipeline.run()
