"""What kinds of inputs there are, and what is refused before anything is planned."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from image_examples_files import write_examples
from sample_images import png_bytes
from storage_emulator import StorageServer, storage_server

from pipeline.config import InputConfig, JobConfig, OutputConfig
from pipeline.inputs import (
    carried_columns,
    check_inputs,
    dataset_for_rows,
    examples_of,
    files_of,
    queries_of,
    run_queries,
    tables_of,
)
from transforms.errors import RequestError
from transforms.records import CarriedColumn

RUN_ID = "20261120T063000Z-0123abcd"
TABLE = "bq://project-1.photos.stock"


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        yield warehouse


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.png").write_bytes(png_bytes())
    return folder


def job(*patterns: object, output: OutputConfig | None = None, **settings: Any) -> JobConfig:
    return JobConfig(
        input=InputConfig(patterns=tuple(map(str, patterns)), **settings),
        output=output or OutputConfig(path="out"),
    )


def check(config: JobConfig) -> None:
    check_inputs(config, carried_columns(config.input))


def test_each_input_is_of_one_kind() -> None:
    files = ("/photos", "@list.txt", "@photos.csv", "https://h/a.jpg", "gs://b/**")
    examples = ("tfrecord:/photos/*.tfrecord", "tfrecord:gs://b/photos")
    config = InputConfig(patterns=(TABLE, *examples, *files))
    assert tables_of(config) == (TABLE,)
    assert examples_of(config) == examples
    assert files_of(config) == files


def test_columns_are_told_with_their_types() -> None:
    config = InputConfig(patterns=("a",), carry=("label", "price:float64"))
    assert carried_columns(config) == (CarriedColumn("label"), CarriedColumn("price", "float64"))


@pytest.mark.parametrize(
    ("column", "told"), [("price:real", "real"), ("sha256", "sha256"), ("a b", "'a b'")]
)
def test_a_column_that_no_output_can_have_is_refused_by_its_key(column: str, told: str) -> None:
    with pytest.raises(RequestError, match=rf"^input\.carry: .*{told}"):
        carried_columns(InputConfig(patterns=("a",), carry=(column,)))


def test_a_column_that_only_case_tells_from_that_of_the_uris_is_refused() -> None:
    """BigQuery would have both as columns of one name in the rows of a query."""
    with pytest.raises(RequestError, match=r"'Path'.*input\.uri_column=path.*carry=\[path\]"):
        carried_columns(InputConfig(patterns=("a",), uri_column="path", carry=("Path",)))
    # The URI as the input writes it may go along.
    config = InputConfig(patterns=("a",), uri_column="path", carry=("path",))
    assert carried_columns(config) == (CarriedColumn("path"),)


def test_inputs_with_an_image_each_are_let_pass(images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("missing.png\n")
    (tmp_path / "photos.csv").write_text("photo,price\nmissing.png,1\n")
    inputs = (images, images / "0.png", f"{images}/*.png", "http://127.0.0.1:9/a.png")
    lists = (f"@{tmp_path}/list.txt", f"@{tmp_path}/photos.csv")
    check(job(*inputs, *lists, uri_column="photo", carry=("price:int64",)))


def test_tables_and_queries_are_not_asked_yet() -> None:
    # Nobody listens where the tests say that BigQuery is.
    check(job(TABLE, query="SELECT 1"))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{here}/missing", "no file or folder"),
        ("{here}/empty", "nothing matched"),
        ("{here}/images/*.gif", "nothing matched"),
        ("@{here}/missing.txt", "missing.txt"),
        ("@{here}/empty.txt", "nothing matched"),
        ("@{here}/missing.csv", "missing.csv"),
        ("@{here}/photos.csv", "'uri'"),
        ("@https://h/list.txt", "download it"),
        ("foo://b/photos", "cannot be read"),
        ("tfrecord:{here}/missing", "missing"),
    ],
)
def test_an_input_that_names_no_image_is_refused(
    images: Path, tmp_path: Path, pattern: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "photos.csv").write_text("photo\n0.png\n")
    location = pattern.format(here=tmp_path)
    with pytest.raises(RequestError) as refused:
        check(job(images, location) if "tfrecord:" not in location else job(location))
    assert str(refused.value).startswith(f"--input {location}")
    assert told in str(refused.value)


def test_files_that_count_as_no_images_name_none(images: Path) -> None:
    with pytest.raises(RequestError, match="nothing matched"):
        check(job(images, extensions=(".gif",)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(images: Path) -> None:
    images.chmod(0)
    try:
        with pytest.raises(RequestError, match="may not read"):
            check(job(images))
    finally:
        images.chmod(0o700)


def test_a_carried_column_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "photos.jsonl").write_text(json.dumps({"uri": "a.png", "price": 1}) + "\n")
    manifest = f"@{tmp_path}/photos.jsonl"
    check(job(manifest, carry=("price",)))
    with pytest.raises(RequestError, match="label"):
        check(job(manifest, carry=("price", "label")))


@pytest.fixture
def examples(tmp_path: Path) -> str:
    content = {"image/encoded": png_bytes(), "price": 1.5}
    return f"tfrecord:{write_examples(tmp_path / 'photos.tfrecord', [content])}"


def test_images_inside_tfrecords_go_alone(images: Path, examples: str) -> None:
    check(job(examples))
    check(job(examples, examples, carry=("price:float64",)))
    for config in (job(examples, images), job(examples, TABLE), job(examples, query="SELECT 1")):
        with pytest.raises(RequestError, match="cannot be mixed"):
            check(config)


def test_images_inside_tfrecords_are_no_input_of_an_incremental_run(examples: str) -> None:
    with pytest.raises(RequestError, match="do not go with --incremental"):
        check(job(examples, output=OutputConfig(path="out", incremental=True)))


def test_features_that_are_to_be_carried_have_to_be_there(examples: str) -> None:
    with pytest.raises(RequestError, match="label"):
        check(job(examples, carry=("label",)))


def test_the_queries_of_a_job_are_one_for_each_table_and_its_own() -> None:
    config = InputConfig(patterns=("/photos", TABLE), query="SELECT uri FROM a.b")
    assert queries_of(config) == [
        (TABLE, "SELECT * FROM `project-1.photos.stock`"),
        ("input.query", "SELECT uri FROM a.b"),
    ]
    assert queries_of(InputConfig(patterns=("/photos",))) == []


def test_a_table_without_a_full_name_is_refused() -> None:
    with pytest.raises(RequestError, match=r"write bq://PROJECT\.DATASET\.TABLE"):
        queries_of(InputConfig(patterns=("bq://photos.stock",)))


def test_the_rows_of_a_query_go_where_they_are_told_or_beside_the_output_or_the_input() -> None:
    into_table = OutputConfig(table="project-2.embeddings.rows")
    told = job(TABLE, output=into_table, query_dataset="project-3.temporary")
    for config, dataset in (
        (told, "project-3.temporary"),
        (job(TABLE, output=into_table), "project-2.embeddings"),
        (job(TABLE), "project-1.photos"),
    ):
        found = dataset_for_rows(config, TABLE)
        assert f"{found.project}.{found.dataset}" == dataset
    with pytest.raises(RequestError, match=r"^input\.query: .*input\.query_dataset"):
        dataset_for_rows(job(query="SELECT 1"), "input.query")
    with pytest.raises(RequestError, match=r"PROJECT\.DATASET"):
        dataset_for_rows(job(TABLE, query_dataset="temporary"), TABLE)


def test_each_query_and_table_is_run_once_into_a_table_of_its_own(warehouse: Warehouse) -> None:
    for name, count in (("first", 2), ("second", 3)):
        warehouse.query(f"CREATE TABLE {name} (photo STRING, price INT64)")
        values = ", ".join(f"('gs://b/{name}/{n}.jpg', {n})" for n in range(count))
        warehouse.query(f"INSERT INTO {name} VALUES {values}")
    first, second = (f"bq://{warehouse.table(name)}" for name in ("first", "second"))
    some = f"SELECT photo, price FROM `{warehouse.table('second')}` WHERE price = 2"
    config = job(first, second, query=some, uri_column="photo", carry=("price:int64",))
    columns = carried_columns(config.input)
    results = run_queries(
        config.model_copy(
            update={"output": OutputConfig(table=warehouse.table("embeddings"))},
        ),
        RUN_ID,
        columns,
    )
    assert [rows.row_count for rows in results] == [2, 3, 1]
    assert len({str(rows.table) for rows in results}) == 3
    assert {(rows.uri_column, rows.columns) for rows in results} == {("photo", columns)}
    [row] = warehouse.query(f"SELECT * FROM {results[2].table.table}")
    assert row == {"photo": "gs://b/second/2.jpg", "price": 2}


def test_a_job_without_tables_and_queries_asks_nothing() -> None:
    assert run_queries(job("/photos"), RUN_ID, ()) == ()


def test_what_is_wrong_with_a_query_is_said_with_its_name(warehouse: Warehouse) -> None:
    dataset = f"{warehouse.project}.{warehouse.dataset}"
    warehouse.query("CREATE TABLE empty (uri STRING)")
    with pytest.raises(RequestError, match=r"^input\.query: the query gives no column 'uri'"):
        run_queries(job(query="SELECT 1 AS a", query_dataset=dataset), RUN_ID, ())
    table = f"bq://{warehouse.table('empty')}"
    with pytest.raises(RequestError, match=rf"^{table}: the query gives no rows"):
        run_queries(job(table), RUN_ID, ())


@pytest.fixture
def server() -> Iterator[StorageServer]:
    with storage_server() as server:
        yield server


@pytest.mark.parametrize("pattern", ["photos", "photos/**.jpg"])
def test_an_image_behind_very_many_other_objects_is_found(
    server: StorageServer, pattern: str
) -> None:
    for number in range(1_001):
        server.put(f"photos/{number:04}.txt", b"")
    location = f"{server.address}/{pattern}"
    with pytest.raises(RequestError, match="nothing matched"):
        check(job(location))
    server.put("photos/z.jpg", png_bytes())
    check(job(location))


def test_of_a_bucket_one_byte_of_one_image_is_read(server: StorageServer) -> None:
    for name in ("a.txt", "b.png", "c.png"):
        server.put(f"photos/{name}", png_bytes())
    check(job(f"{server.address}/photos"))
    [read] = [request for request in server.requests if "GET /download" in request]
    assert "b.png" in read


@pytest.mark.parametrize("pattern", ["", "/photos", "/photos/*.png", "/photos/a.png"])
def test_a_bucket_that_may_be_listed_and_not_read_is_refused(
    server: StorageServer, pattern: str
) -> None:
    server.put("photos/a.png", png_bytes())
    server.refuse("GET /download", 403)
    location = f"{server.address}{pattern}"
    with pytest.raises(RequestError, match=r"a\.png.*roles/storage\.objectViewer") as refused:
        check(job(location))
    assert str(refused.value).startswith(f"--input {location}: ")


def test_an_object_that_is_gone_by_now_says_nothing_of_the_others(server: StorageServer) -> None:
    server.put("photos/a.png", png_bytes())
    server.refuse("GET /download.*a.png", 404)
    with pytest.raises(RequestError, match="nothing matched"):
        check(job(f"{server.address}/photos"))
    # An empty object has no first byte; it can be read all the same.
    server.put("photos/b.png", b"")
    check(job(f"{server.address}/photos"))
    server.refuse("GET /download.*b.png", 403)
    with pytest.raises(RequestError, match="objectViewer"):
        check(job(f"{server.address}/photos"))


def test_a_list_with_nothing_but_entries_that_cannot_be_is_left_to_the_job(
    tmp_path: Path,
) -> None:
    (tmp_path / "list.txt").write_bytes(b"gs://b/caf\xe9.jpg\n")
    check(job(f"@{tmp_path}/list.txt"))
