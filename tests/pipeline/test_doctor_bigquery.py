"""What the doctor says of BigQuery, on the emulator with faults planted."""

import json
import socket
import time

import pytest
from bigquery_emulator import bigquery_emulator
from table_runs import new_table, tables
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config_layers import resolve_without_paths, setting_from_text
from pipeline.doctor_bigquery import check_bigquery


@pytest.fixture
def warehouse():
    with bigquery_emulator() as warehouse:
        yield warehouse


def config_of(*sets):
    return resolve_without_paths(map(setting_from_text, sets))


def examine(*sets, **options):
    """What is found, as rows of (check, verdict), and all of its texts."""
    findings = check_bigquery(config_of(*sets), **options)
    text = "\n".join(f"{finding.seen} -> {finding.advice}" for finding in findings)
    return [(finding.check, finding.verdict) for finding in findings], text


def denied(warehouse, pattern, permission):
    message = f"Access Denied: Permission {permission} denied"
    warehouse.plant_fault(pattern, status=403, reason="accessDenied", message=message, times=9)


def test_nothing_is_asked_where_no_table_is_named():
    rows, text = examine("output.path=out")
    assert rows == [("bigquery", "skipped")]
    assert "names no table and no query" in text


def test_a_table_that_is_not_there_yet_is_well_and_is_not_made(warehouse):
    rows, text = examine(
        f"output.table={warehouse.table('embeddings')}", f"beam.temp_location={warehouse.bucket}/t"
    )
    assert rows == [
        ("bigquery dataset", "ok"),
        ("bigquery output", "ok"),
        ("bigquery output", "ok"),
        ("temp_location", "ok"),
    ]
    assert "lies in US" in text
    assert "there is no " in text
    assert tables(warehouse) == set()
    # Dry runs are no jobs.
    assert warehouse.jobs() == []


def test_a_table_that_fits_is_well_and_stays_as_it_is(warehouse):
    table = new_table(warehouse)
    before = tables(warehouse)
    settings = (f"output.table={table}", f"beam.temp_location={warehouse.bucket}/t")
    rows, text = examine(*settings, "output.incremental=true")
    assert {verdict for _, verdict in rows} == {"ok"}
    assert f"{table} has 0 rows, and its columns fit" in text
    assert tables(warehouse) == before


def test_columns_that_do_not_fit_are_named_with_what_mends_them(warehouse):
    table = new_table(warehouse)
    rows, text = examine(
        f"output.table={table}",
        f"beam.temp_location={warehouse.bucket}/t",
        "input.carry=[label]",
        "model.outputs=[embedding, logits]",
    )
    assert ("bigquery output", "failed") in rows
    assert "label is missing" in text
    assert "logits is missing" in text
    assert f"ALTER TABLE `{table}` ADD COLUMN `label` STRING;" in text


def test_a_view_is_no_table_to_write_into(warehouse):
    warehouse.query("CREATE VIEW embeddings AS SELECT 'a' AS uri")
    rows, text = examine(f"output.table={warehouse.table('embeddings')}")
    assert ("bigquery output", "failed") in rows
    assert "is a VIEW, not a table -> name another one" in text


@pytest.mark.parametrize(
    ("pattern", "permission", "advice"),
    [
        ("GET .*/datasets/[^/]+ $", "bigquery.datasets.get", "roles/bigquery.dataEditor on the"),
        (
            "POST .*/jobs .*SELECT 1",
            "bigquery.jobs.create",
            "roles/bigquery.jobUser on the project",
        ),
        ("POST .*/jobs .*CREATE TABLE", "bigquery.tables.create", "roles/bigquery.dataEditor"),
        ("POST .*/jobs .*MERGE INTO", "bigquery.tables.updateData", "roles/bigquery.dataEditor"),
    ],
)
def test_a_permission_that_is_missing_is_named_with_what_to_grant(
    warehouse, pattern, permission, advice
):
    table = new_table(warehouse)
    denied(warehouse, pattern, permission)
    rows, text = examine(f"output.table={table}")
    assert ("bigquery output", "failed") in rows
    (line,) = [line for line in text.splitlines() if permission in line]
    assert f"-> grant {advice}" in line


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("photos", "is no table; write bq://"),
        ("test-project.no_such_dataset.photos", "create the dataset with `bq mk --dataset"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(warehouse, table, problem):
    rows, text = examine(f"output.table={table}")
    assert ("bigquery output", "failed") in rows
    assert problem in text.replace(" -> ", "; ")


@pytest.mark.parametrize(
    ("sets", "verdict"),
    [
        ([], "suspect"),
        (["beam.temp_location=/tmp"], "failed"),
        (["beam.temp_location=gs://b"], "ok"),
    ],
)
def test_rows_need_a_temp_location_on_gs(warehouse, sets, verdict):
    rows, _ = examine(f"output.table={warehouse.table('t')}", *sets)
    assert rows[-1] == ("temp_location", verdict)


def test_tables_and_queries_among_the_inputs_are_tried_without_running_them(warehouse):
    warehouse.query("CREATE TABLE photos (uri STRING, label STRING)")
    photos = warehouse.table("photos")
    before = len(warehouse.jobs())
    rows, text = examine(
        f"input.patterns=['bq://{photos}']",
        f"input.query=SELECT uri, label FROM `{photos}` WHERE label IS NOT NULL;",
        f"input.query_dataset={warehouse.project}.{warehouse.dataset}",
        "input.carry=[label]",
    )
    assert rows == [("bigquery input", "ok")] * 2
    assert f"bq://{photos} gives uri, label" in text
    assert len(warehouse.jobs()) == before


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["input.query=SELECT 1 AS url"], "the query gives no column 'uri'; did you mean 'url'?"),
        (["input.query=SELECT 1 AS uri"], "but URIs are STRING"),
        (["input.query=SELECT uri FROM"], "correct the query"),
        (["input.patterns=['bq://nonsense']"], "is no table; write bq://"),
        (["input.query=SELECT 'a' AS uri", "input.carry=['n:date']"], "input.carry"),
    ],
)
def test_an_input_that_would_be_refused_is_found(warehouse, sets, problem):
    dataset = f"input.query_dataset={warehouse.project}.{warehouse.dataset}"
    rows, text = examine(*sets, dataset)
    assert rows == [("bigquery input", "failed")]
    assert problem in text.replace(" -> ", "; ")


def test_a_query_without_a_dataset_for_its_rows_is_found():
    rows, text = examine("input.query=SELECT 'a' AS uri")
    assert rows == [("bigquery input", "failed")]
    assert "input.query_dataset=PROJECT.DATASET" in text


def test_bigquery_that_does_not_answer_is_given_up(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", host)
        begun = time.monotonic()
        rows, text = examine("output.table=my-project.photos.t", seconds=1.0)
        assert time.monotonic() - begun < 10
    assert rows == [("bigquery", "failed")]
    assert "no answer within 1 s" in text


def test_the_command_shows_what_was_found(warehouse, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    table = warehouse.table("embeddings")
    flags = ("--model", model, "--output", f"bq://{table}", "--json")
    temporary = f"--set=beam.temp_location={warehouse.bucket}/tmp"
    assert main(["doctor", *flags, temporary]) == 0
    out, err = capsys.readouterr()
    checks = [(each["check"], each["verdict"]) for each in json.loads(out)["checks"]]
    assert checks[-4:] == [
        ("bigquery dataset", "ok"),
        ("bigquery output", "ok"),
        ("bigquery output", "ok"),
        ("temp_location", "ok"),
    ]
    assert "looking at BigQuery" in err
    denied(warehouse, "POST .*/jobs .*SELECT 1", "bigquery.jobs.create")
    assert main(["doctor", *flags, temporary]) == 1
