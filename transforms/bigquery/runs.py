"""The table with one row for each run that wrote into a table of embeddings."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from google.cloud.bigquery import ScalarQueryParameter

from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.schema import RUNS_SCHEMA
from transforms.bigquery.sql import record_run_sql
from transforms.bigquery.table import runs_table

_COUNTS = ("found", "skipped", "embedded", "failed", "gone", "pruned")


def record_run(table: TableName, report: Mapping[str, Any]) -> None:
    """Write the row of a run into `<table>_runs`; of an earlier report of it, in its place.

    Args:
        table: of the embeddings, as `prepare_table` left it.
        report: the content of run.json, JSON values only.

    Raises:
        JobError: BigQuery refuses it; the message says what to grant or change.

    Example:
        >>> record_run(table, report)  # doctest: +SKIP
    """
    text = json.dumps(report, ensure_ascii=False, sort_keys=True)
    values = {
        **{name: report[name] for name in ("run_id", "status", "started_at", "finished_at")},
        **{name: report["counts"][name] for name in _COUNTS},
        "model": report["model"]["handle"],
        "model_fingerprint": report["model"]["fingerprint"],
        "preprocess_fingerprint": report["preprocessing"]["fingerprint"],
        "precision": report["model"]["precision"],
        "report": text,
    }
    parameters = [
        ScalarQueryParameter(field.name, field.field_type, values[field.name])
        for field in RUNS_SCHEMA
    ]
    run_id = report["run_id"]
    # Two workers that record the same thing at the same time share one job.
    digest = hashlib.sha256(f"{table}\n{text}".encode()).hexdigest()[:12]
    jobs = Jobs(table.project, Jobs(table.project).dataset_location(table), run_id)
    jobs.run_query(
        record_run_sql(runs_table(table).sql, [field.name for field in RUNS_SCHEMA]),
        parameters,
        job_id=f"embed_images_{run_id}_record_{report['status']}_{digest}",
    )
