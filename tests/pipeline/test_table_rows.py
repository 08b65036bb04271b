"""What the rows of one table say: all of them the same things, whatever happens to a run."""

import json

import pytest
from bigquery_emulator import bigquery_emulator
from components import require
from hub_modules import save_hub_module
from hub_networks import TinyNetwork
from nights import BucketOfImages, Nights, counts_of, put_many, report_of, rows_of, tiny_png
from sample_images import corrupt_images
from tiny_models import save_tiny_model

from pipeline.__main__ import main

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
    images = BucketOfImages(warehouse)
    put_many(images, 3)
    return images


@pytest.fixture
def nights(warehouse, images, model):
    return into_table(warehouse, images.location, model)


def into_table(warehouse, location, model, *, incremental=True):
    return Nights(
        (location,),
        model,
        table=warehouse.table("photos"),
        temp_location=f"{warehouse.bucket}/temp",
        incremental=incremental,
    )


def with_labels(warehouse, images, **labels):
    """A manifest of images with a label each."""
    lines = [
        {"uri": f"{images.location}/{name}.png", "label": label} for name, label in labels.items()
    ]
    text = "\n".join(map(json.dumps, lines))
    BucketOfImages(warehouse, "lists").put("photos.jsonl", text.encode())
    return f"@{warehouse.bucket}/lists/photos.jsonl"


def lose_the_record(warehouse):
    """Let the next run fail between its merge and its record, as if it were killed there."""
    warehouse.plant_fault(
        r"POST .*/jobs .*_record_complete_", status=403, reason="accessDenied", message="planted"
    )


CARRY = ("--set", "input.carry=[label]")


@pytest.mark.parametrize("incremental", [False, True])
def test_other_outputs_of_the_same_model_are_refused_also_without_incremental(
    warehouse, images, tmp_path, capsys, incremental
):
    classifier = save_hub_module(
        tmp_path / "module", "classification/5", TinyNetwork(seed=3, classes=6)
    )
    nights = into_table(warehouse, images.location, classifier, incremental=incremental)
    size = ("--set", "preprocess.size=[32, 32]")
    nights.run(*size, "--set", "model.outputs=[top_classes]")
    # So that the columns fit.
    warehouse.query(
        "CREATE OR REPLACE TABLE photos AS "
        "SELECT *, CAST([] AS ARRAY<FLOAT64>) AS logits FROM photos"
    )
    before = rows_of(warehouse, nights.table)
    assert nights.status(*size, "--set", "model.outputs=[logits]") == 2
    said = capsys.readouterr().err
    assert "holds 5 top classes without labels, and this run would write logits" in said
    assert rows_of(warehouse, nights.table) == before


@pytest.mark.parametrize("incremental", [False, True])
def test_a_run_that_was_killed_behind_its_merge_is_known_by_its_rows(
    warehouse, images, model, capsys, incremental
):
    listed = with_labels(warehouse, images, **{"0000": "cat"})
    nights = into_table(warehouse, listed, model, incremental=incremental)
    lose_the_record(warehouse)
    assert nights.status(*CARRY) == 1
    [row] = rows_of(warehouse, nights.table)
    assert row["label"] == "cat"
    images.put("0000.png", tiny_png(100))
    assert nights.status() == 2
    assert "the column label (string), and this run would write an embedding;" in (
        capsys.readouterr().err
    )
    assert rows_of(warehouse, nights.table) == [row]


def test_a_table_that_was_dropped_is_begun_anew(warehouse, images, nights):
    nights.run()
    warehouse.query("DROP TABLE photos")
    listed = into_table(warehouse, with_labels(warehouse, images, **{"0000": "cat"}), nights.model)
    assert counts_of(listed.run(*CARRY)) == {"found": 1, "embedded": 1}
    assert [row["label"] for row in rows_of(warehouse, nights.table)] == ["cat"]


def test_a_column_that_comes_later_is_null_in_the_rows_that_were_there(
    warehouse, images, nights, capsys
):
    nights.run()
    images.put("new.png", tiny_png(9))
    listed = with_labels(warehouse, images, **{"0000": "cat", "0001": "dog", "new": "eel"})
    labelled = into_table(warehouse, listed, nights.model)
    assert labelled.status(*CARRY) == 2
    assert "ADD COLUMN `label` STRING;" in capsys.readouterr().err
    # The emulator does not show what its ALTER TABLE has done.
    warehouse.query(
        "CREATE OR REPLACE TABLE photos AS SELECT *, CAST(NULL AS STRING) AS label FROM photos"
    )
    images.put("0001.png", tiny_png(10))
    assert counts_of(labelled.run(*CARRY)) == {"found": 3, "skipped": 1, "embedded": 2}
    labels = [row["label"] for row in rows_of(warehouse, nights.table)]
    assert labels == [None, "dog", None, "eel"]
    assert nights.status() == 2
    assert "to which columns may be added" in capsys.readouterr().err


def test_what_failed_in_a_run_whose_merge_fails_can_be_retried(warehouse, images, nights, capsys):
    images.put("corrupt.png", corrupt_images()["truncated PNG"])
    lenient = "--max-failure-ratio=0.5"
    warehouse.plant_fault(
        r"POST .*/jobs .*_insert_", status=403, reason="accessDenied", message="planted"
    )
    assert nights.status(lenient) == 1
    [folder] = nights.run_folders()
    report = report_of(folder)
    assert report["status"] == "merging"
    assert counts_of(report) == {"found": 4, "embedded": 3, "failed": 1}
    [row] = warehouse.query("SELECT status, failed FROM photos_runs")
    assert row == {"status": "merging", "failed": 1}
    images.put("corrupt.png", tiny_png(9))
    capsys.readouterr()
    assert main(["retry", "--from", folder, f"--temp_location={nights.temp_location}"]) == 0
    assert "did not succeed" in capsys.readouterr().err
    assert counts_of(nights.run(lenient)) == {"found": 4, "skipped": 1, "embedded": 3}
    statuses = warehouse.query("SELECT status FROM photos_runs ORDER BY started_at")
    assert [row["status"] for row in statuses] == ["merging", "complete", "complete"]


def test_a_changed_image_reaches_the_table_whatever_the_clock_of_its_worker_says(
    warehouse, images, nights
):
    nights.run()
    warehouse.query(
        "UPDATE photos SET embedded_at = TIMESTAMP_ADD(embedded_at, INTERVAL 1 HOUR) WHERE TRUE"
    )
    images.put("0000.png", tiny_png(100))
    report = nights.run()
    assert counts_of(report) == {"found": 3, "skipped": 2, "embedded": 1}
    assert rows_of(warehouse, nights.table)[0]["run_id"] == report["run_id"]
