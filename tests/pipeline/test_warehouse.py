"""`run` from a bucket into a BigQuery table, night after night, on the emulators of both."""

import json

import pytest
from bigquery_emulator import bigquery_emulator
from components import require
from incremental_folders import assert_every_image_once
from nights import (
    BucketOfImages,
    Nights,
    assert_each_once,
    assert_folder_and_table_agree,
    assert_same_rows,
    assert_same_table,
    change_ten_add_ten_delete_ten,
    counts_of,
    dead_letters,
    no_model_can_be_loaded,
    put_many,
    rows_of,
    tiny_png,
)
from sample_images import corrupt_images
from table_runs import tables
from tiny_models import save_tiny_model

from transforms.search.read_embeddings import read_embeddings
from transforms.storage.output_storage import paths_starting_with

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), image_height=8, image_width=8)


@pytest.fixture
def warehouse():
    with bigquery_emulator() as warehouse:
        yield warehouse


@pytest.fixture
def images(warehouse):
    return BucketOfImages(warehouse)


@pytest.fixture
def nights(warehouse, images, model):
    """Into a table alone."""
    return Nights(
        (images.location,),
        model,
        table=warehouse.table("photos"),
        temp_location=f"{warehouse.bucket}/temp",
    )


def test_two_thousand_objects_into_a_folder_and_a_table(warehouse, images, nights, capsys):
    put_many(images, 2000)
    both = nights.to(f"{warehouse.bucket}/out", nights.table)
    assert counts_of(both.run()) == {"found": 2000, "embedded": 2000}
    assert len(rows_of(warehouse, nights.table)) == 2000

    with no_model_can_be_loaded():
        assert counts_of(both.run()) == {"found": 2000, "skipped": 2000}
    change_ten_add_ten_delete_ten(images)
    report = both.run()
    assert counts_of(report) == {"found": 2000, "skipped": 1980, "embedded": 20, "gone": 10}
    rows = rows_of(warehouse, nights.table)
    assert len(rows) == 2010
    assert_each_once(rows)
    assert_folder_and_table_agree(both.folder, rows)

    with no_model_can_be_loaded():
        report = both.run("--prune")
    assert counts_of(report) == {"found": 2000, "skipped": 2000, "gone": 10, "pruned": 10}
    scratch = Nights(
        nights.inputs,
        nights.model,
        folder=f"{warehouse.bucket}/scratch",
        table=warehouse.table("scratch"),
        temp_location=nights.temp_location,
        incremental=False,
    )
    assert counts_of(scratch.run()) == {"found": 2000, "embedded": 2000}
    rows = rows_of(warehouse, nights.table)
    assert_same_table(rows, rows_of(warehouse, scratch.table))
    assert_same_rows(read_embeddings(both.folder), read_embeddings(scratch.folder))
    assert_every_image_once(both.folder)
    assert_folder_and_table_agree(both.folder, rows)
    # Nothing is left of the staging, neither tables nor files.
    assert tables(warehouse) == {"photos", "photos_runs", "scratch", "scratch_runs"}
    assert not paths_starting_with(f"{nights.temp_location}/")


def test_what_one_output_holds_and_the_other_lacks_is_embedded_into_both(warehouse, images, nights):
    put_many(images, 4)
    folder = f"{warehouse.bucket}/out"
    both, table = nights.to(folder, nights.table), nights
    assert counts_of(both.run()) == {"found": 4, "embedded": 4}
    images.put("new.png", tiny_png(99))
    assert counts_of(table.run()) == {"found": 5, "skipped": 4, "embedded": 1}
    assert counts_of(both.run()) == {"found": 5, "skipped": 4, "embedded": 1}
    assert counts_of(both.run()) == {"found": 5, "skipped": 5}
    assert_every_image_once(folder)
    rows = rows_of(warehouse, nights.table)
    assert_each_once(rows)
    assert_folder_and_table_agree(folder, rows)
    runs = warehouse.query("SELECT * FROM photos_runs ORDER BY started_at")
    assert [row["embedded"] for row in runs] == [4, 1, 1, 0]
    assert [row["skipped"] for row in runs] == [0, 4, 4, 5]
    assert {row["status"] for row in runs} == {"complete"}
    assert [json.loads(row["report"])["run_id"] for row in runs] == [row["run_id"] for row in runs]
    assert {row["run_id"] for row in rows} <= {row["run_id"] for row in runs}


def test_columns_go_along_into_rows_and_dead_letters(warehouse, images, nights):
    put_many(images, 3)
    images.put("corrupt.png", corrupt_images()["truncated PNG"])
    names = ["0000.png", "0001.png", "corrupt.png", "missing.png"]
    lines = [
        {"photo": f"{images.location}/{name}", "label": f"кошка {n}", "price": n / 4}
        for n, name in enumerate(names)
    ]
    lines.append({"photo": f"{images.location}/0002.png", "label": "no price", "price": "?"})
    BucketOfImages(warehouse, "lists").put(
        "photos.jsonl", "\n".join(map(json.dumps, lines)).encode()
    )
    listed = Nights(
        (f"@{warehouse.bucket}/lists/photos.jsonl",),
        nights.model,
        table=nights.table,
        temp_location=nights.temp_location,
    )
    flags = ("--set", "input.carry=[label,'price:float64']", "--set", "input.uri_column=photo")
    report = listed.run(*flags, "--max-failure-ratio=0.9")
    assert counts_of(report) == {"found": 5, "embedded": 2, "failed": 3}
    rows = rows_of(warehouse, nights.table)
    assert [(row["label"], row["price"]) for row in rows] == [("кошка 0", 0.0), ("кошка 1", 0.25)]
    letters = dead_letters(listed.run_folders()[-1])
    assert [(letter["uri"].rsplit("/")[-1], letter["error"]) for letter in letters] == [
        ("0002.png", "InvalidColumn"),
        ("corrupt.png", "UndecodableImage"),
        ("missing.png", "ImageNotFound"),
    ]
    [run] = warehouse.query("SELECT * FROM photos_runs")
    assert (run["found"], run["embedded"], run["failed"]) == (5, 2, 3)


def test_a_query_and_a_table_name_images(warehouse, images, nights):
    put_many(images, 4)
    values = ", ".join(f"('{images.location}/{n:04d}.png', {n})" for n in range(4))
    warehouse.query("CREATE TABLE stock (uri STRING, number INT64)")
    warehouse.query(f"INSERT INTO stock VALUES {values}")
    stock = warehouse.table("stock")
    queried = Nights((), nights.model, table=nights.table, temp_location=nights.temp_location)
    carry = ("--set", "input.carry=['number:int64']")
    report = queried.run("--input-query", f"SELECT * FROM `{stock}` WHERE number < 3", *carry)
    assert counts_of(report) == {"found": 3, "embedded": 3}
    listed = Nights(
        (f"bq://{stock}",), nights.model, table=nights.table, temp_location=nights.temp_location
    )
    assert counts_of(listed.run(*carry)) == {"found": 4, "skipped": 3, "embedded": 1}
    rows = rows_of(warehouse, nights.table)
    assert [row["number"] for row in rows] == [0, 1, 2, 3]


def test_another_model_in_the_same_table(warehouse, images, nights, tmp_path, capsys):
    put_many(images, 4)
    nights.run()
    before = rows_of(warehouse, nights.table)
    other_model = save_tiny_model(tmp_path / "other", image_height=8, image_width=8, seed=1)
    other = Nights(
        nights.inputs, other_model, table=nights.table, temp_location=nights.temp_location
    )
    plain = Nights(
        nights.inputs,
        other_model,
        table=nights.table,
        temp_location=nights.temp_location,
        incremental=False,
    )
    for refused in (other, plain):
        assert refused.status() == 2
        assert "--allow-other-models" in capsys.readouterr().err
    assert rows_of(warehouse, nights.table) == before
    assert counts_of(other.run("--allow-other-models")) == {"found": 4, "embedded": 4}
    rows = rows_of(warehouse, nights.table)
    assert_each_once(rows)
    assert [row for row in rows if row["model"] == nights.model] == before
    assert [row["uri"] for row in rows if row["model"] == other_model] == [
        row["uri"] for row in before
    ]
    with no_model_can_be_loaded():
        assert counts_of(nights.run()) == {"found": 4, "skipped": 4}


def test_a_wrong_request_ends_with_2_before_anything_is_written(warehouse, images, nights, capsys):
    put_many(images, 2)
    lists = BucketOfImages(warehouse, "lists")
    lists.put("photos.csv", f"photo,label\n{images.location}/0000.png,dog\n".encode())
    warehouse.query("CREATE TABLE other (uri INT64, embedding STRING)")
    warehouse.query("CREATE TABLE empty (uri STRING)")
    warehouse.query("CREATE VIEW seen AS SELECT 1 AS uri")
    table, bucket = nights.table, warehouse.bucket
    project, dataset = warehouse.project, warehouse.dataset
    target, photos = ("--output", f"bq://{table}"), ("--input", images.location)
    temporary = f"--temp_location={nights.temp_location}"
    empty = f"SELECT uri FROM `{warehouse.table('empty')}`"
    cases = {
        "no such bucket to read": (
            ["--input", "gs://no-such-bucket/photos", *target, temporary],
            ["no-such-bucket"],
        ),
        "no such bucket to write": (
            [*photos, "--output", "gs://no-such-bucket/out", *target, temporary],
            ["no-such-bucket"],
        ),
        "no such temporary bucket": (
            [*photos, *target, "--temp_location=gs://no-such-bucket/temp"],
            ["no-such-bucket"],
        ),
        "no such temporary bucket beside a folder": (
            [
                *(*photos, *target, "--output", f"{bucket}/out"),
                "--temp_location=gs://no-such-bucket/temp",
            ],
            ["no-such-bucket"],
        ),
        "no temporary bucket": ([*photos, *target], ["--temp_location=gs://"]),
        "no such dataset": (
            [*photos, "--output", f"bq://{project}.no_such_dataset.photos", temporary],
            ["no_such_dataset", "create the dataset"],
        ),
        "no table's name": (
            [*photos, "--output", f"bq://{dataset}.photos", temporary],
            ["PROJECT.DATASET.TABLE"],
        ),
        "other columns": (
            [*photos, "--output", f"bq://{warehouse.table('other')}", temporary],
            ["uri is INT64", "sha256 is missing", "ALTER TABLE"],
        ),
        "a view": (
            [*photos, "--output", f"bq://{warehouse.table('seen')}", temporary],
            ["seen is a VIEW"],
        ),
        "no such column": (
            ["--input", f"@{bucket}/lists/photos.csv", *target, temporary],
            ["uri", "photo"],
        ),
        "no such carried column": (
            [
                *("--input", f"@{bucket}/lists/photos.csv", *target, temporary),
                *("--set", "input.uri_column=photo", "--set", "input.carry=[breed]"),
            ],
            ["breed"],
        ),
        "a query without URIs": (
            ["--input-query", empty, *target, temporary],
            ["nothing to embed"],
        ),
        "a query that is none": (
            ["--input-query", "SELEC 1", *target, temporary],
            ["input.query"],
        ),
        "no such table to read": (
            ["--input", f"bq://{warehouse.table('nowhere')}", *target, temporary],
            ["nowhere"],
        ),
    }
    there, objects = tables(warehouse), paths_starting_with(f"{bucket}/")
    wrong = {}
    for name, (arguments, sentences) in cases.items():
        status = Nights((), nights.model).status(*arguments)
        error = capsys.readouterr().err
        missing = [sentence for sentence in sentences if sentence not in error]
        left = {*tables(warehouse), *paths_starting_with(f"{bucket}/")} - {*there, *objects}
        if status != 2 or missing or "Traceback" in error or left:
            wrong[name] = (status, missing, sorted(left), error[-500:])
    assert not wrong


def test_a_permission_that_is_missing_at_the_start_is_a_wrong_request(
    warehouse, images, nights, capsys
):
    put_many(images, 2)
    denied = {"status": 403, "reason": "accessDenied", "times": 1000}
    for pattern, message, advice in (
        (r"GET .*/datasets/", "Access Denied: Dataset x", "bigquery.dataEditor"),
        (r"POST .*/tables", "Access Denied: bigquery.tables.create", "bigquery.dataEditor"),
    ):
        with bigquery_emulator() as other:
            other.plant_fault(pattern, message=message, **denied)
            assert nights.to(None, nights.table).status() == 2
            assert advice in capsys.readouterr().err
    warehouse.storage.refuse("GET /storage/v1/b/[^/]+/o", 403)
    assert nights.status() == 2
    assert "grant" in capsys.readouterr().err
    warehouse.storage.accept()
    assert tables(warehouse) == set()


def test_a_permission_lost_in_the_middle_fails_the_job_and_leaves_the_table_as_it_was(
    warehouse, images, nights, capsys
):
    put_many(images, 6)
    nights.run()
    before = rows_of(warehouse, nights.table)
    images.put("0000.png", tiny_png(100))
    images.put("new.png", tiny_png(101))
    denied = {"status": 403, "reason": "accessDenied", "message": "Access Denied: planted"}
    for pattern in (
        r'POST .*/jobs .*"load"',
        r"POST .*/jobs .*_merge_",
    ):
        warehouse.plant_fault(pattern, **denied)
        assert nights.status() == 1, pattern
        error = capsys.readouterr().err
        assert "Access Denied: planted" in error
        assert "grant roles/bigquery.dataEditor" in error
        assert "Traceback" not in error
        assert rows_of(warehouse, nights.table) == before
    # The job is accepted, and fails later.
    warehouse.plant_fault(r'POST .*/jobs .*"load"', when="job", **denied)
    assert nights.status() == 1
    assert "Access Denied: planted" in capsys.readouterr().err
    assert rows_of(warehouse, nights.table) == before
    # The bucket of the row files.
    warehouse.storage.refuse("PUT /upload/.*rows", 403)
    assert nights.status() == 1
    assert "Traceback" not in capsys.readouterr().err
    warehouse.storage.accept()
    assert rows_of(warehouse, nights.table) == before

    # What passes by itself fails nothing.
    busy = {"status": 503, "reason": "backendError"}
    warehouse.plant_fault(r'POST .*/jobs .*"load"', **busy)
    warehouse.plant_fault(r'POST .*/jobs .*"load"', when="after", **busy)
    warehouse.plant_fault(r"POST .*/jobs .*_merge_", status=429, reason="rateLimitExceeded")
    warehouse.plant_fault(r"POST .*/jobs .*_merge_", when="job", reason="backendError")
    warehouse.storage.refuse("GET /download/.*new.png", 503, times=1)
    warehouse.storage.refuse("GET /download/.*0000.png", 429, times=1)
    warehouse.storage.refuse("PUT /upload/.*rows", 503, times=1)
    report = nights.run()
    assert counts_of(report) == {"found": 7, "skipped": 5, "embedded": 2}
    rows = rows_of(warehouse, nights.table)
    assert_each_once(rows)
    assert len(rows) == 7


def test_images_that_may_not_be_read_any_more_fail_the_job_where_they_are_too_many(
    warehouse, images, nights, capsys
):
    put_many(images, 6)
    nights.run()
    before = rows_of(warehouse, nights.table)
    for number in range(3):
        images.put(f"{number:04d}.png", tiny_png(100 + number))
    # The first one is tried before the job starts, so that a lost permission is refused there.
    warehouse.storage.refuse("GET /download/.*photos.*000[12]", 403)
    assert nights.status() == 1
    assert "ImageForbidden" in capsys.readouterr().err
    assert rows_of(warehouse, nights.table) == before
    [*_, failed] = warehouse.query("SELECT status, failed FROM photos_runs ORDER BY started_at")
    assert failed == {"status": "failed", "failed": 2}
