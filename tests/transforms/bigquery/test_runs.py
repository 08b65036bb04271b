"""The table of runs: one row for each, whatever is repeated."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from table_runs import FIRST, SECOND, new_table

from transforms.bigquery.runs import record_run
from transforms.errors import JobError

REPORT: dict[str, Any] = {
    "run_id": FIRST,
    "status": "complete",
    "started_at": "2026-11-20T06:30:00.123+00:00",
    "finished_at": "2026-11-20T06:31:00+00:00",
    "counts": {
        "found": 10,
        "skipped": 5,
        "embedded": 3,
        "failed": 2,
        "gone": 4,
        "pruned": 1,
    },
    "model": {"handle": "gs://models/größe", "fingerprint": "a" * 16, "precision": "float32"},
    "preprocessing": {"fingerprint": "c" * 16, "height": 299},
    "mean_batch_fill": None,
}


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


def test_a_run_is_one_row_with_its_counts_and_its_whole_report(warehouse: Warehouse) -> None:
    record_run(new_table(warehouse), REPORT)
    [row] = warehouse.query("SELECT *, UNIX_MILLIS(started_at) AS started FROM embeddings_runs")
    assert row.pop("started") == 1_795_156_200_123
    assert json.loads(row.pop("report")) == REPORT
    assert (row.pop("started_at") < row.pop("finished_at")) is True
    assert row == {
        "run_id": FIRST,
        "status": "complete",
        **REPORT["counts"],
        "model": "gs://models/größe",
        "model_fingerprint": "a" * 16,
        "preprocess_fingerprint": "c" * 16,
        "precision": "float32",
    }


def test_recording_again_leaves_one_row(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    record_run(table, REPORT)
    record_run(table, REPORT)
    record_run(table, {**REPORT, "run_id": SECOND})
    rows = warehouse.query("SELECT run_id FROM embeddings_runs ORDER BY run_id")
    assert [row["run_id"] for row in rows] == [FIRST, SECOND]


def test_a_later_report_of_a_run_takes_the_place_of_the_earlier_one(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    record_run(table, {**REPORT, "status": "failed"})
    record_run(table, REPORT)
    [row] = warehouse.query("SELECT status FROM embeddings_runs")
    assert row["status"] == "complete"


def test_an_answer_that_is_lost_leaves_one_row(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    warehouse.plant_fault(r'POST .*/jobs .*"query": "MERGE', when="after")
    record_run(table, REPORT)
    [row] = warehouse.query("SELECT COUNT(*) AS rows_there FROM embeddings_runs")
    assert row["rows_there"] == 1


def test_a_permission_that_is_lost_fails_the_job(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    warehouse.plant_fault(
        r"POST .*/jobs ", status=403, reason="accessDenied", message="Access Denied: Table runs"
    )
    with pytest.raises(JobError, match=r"grant roles/bigquery\.dataEditor"):
        record_run(table, REPORT)
