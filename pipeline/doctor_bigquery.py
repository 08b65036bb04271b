"""Whether BigQuery lets a job do what a configuration asks of it.

It is asked by requests that change nothing and cost nothing: dry runs of the statements that the
job would run, and looks at datasets and tables.
"""

import threading
from collections.abc import Iterator

from pipeline.config import TABLE_PREFIX, JobConfig
from pipeline.inputs import carried_columns, dataset_for_rows, queries_of, table_name, tables_of
from transforms.bigquery.access import check_merge, check_reading, check_recording, dry_run
from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.schema import RUNS_SCHEMA, schema_problems, table_schema
from transforms.bigquery.table import runs_table
from transforms.errors import JobError, RequestError
from transforms.networks.model_checks import Finding
from transforms.records import OutputLayout
from transforms.sources.image_query import check_image_query

#: For all that is asked of BigQuery. The libraries themselves try again for minutes.
SECONDS = 40.0

_PATIENCE_SECONDS = 5.0


def check_bigquery(config: JobConfig, seconds: float = SECONDS) -> list[Finding]:
    """Check the table, the queries and the temp_location that a configuration names.

    Args:
        config: of the job.
        seconds: after which what has not been answered counts as failed.
    """
    if not uses_bigquery(config):
        return [Finding("bigquery", "skipped", "the configuration names no table and no query")]
    findings: list[Finding] = []

    def check() -> None:
        for finding in _check(config):
            findings.append(finding)

    # A daemon: a call that hangs must not keep the process from ending.
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [*findings, _no_answer(seconds)]
    return findings


def uses_bigquery(config: JobConfig) -> bool:
    """Return whether a job reads from BigQuery or writes into it."""
    return bool(tables_of(config.input) or config.input.query or config.output.table)


def _no_answer(seconds: float) -> Finding:
    return Finding(
        "bigquery",
        "failed",
        f"no answer within {seconds:g} s to what comes next",
        "look at the network, a proxy and the credentials (gcloud auth application-default login)",
    )


def _check(config: JobConfig) -> Iterator[Finding]:
    name = "bigquery output"
    if config.output.table:
        try:
            yield from _check_output(config, table_name(config.output.table))
        except Exception as error:  # The clients of the clouds raise errors of many kinds.
            yield _failed(name, f"{TABLE_PREFIX}{config.output.table}", error)
        yield _check_temp_location(config)
    name = "bigquery input"
    try:
        queries = queries_of(config.input)
    except RequestError as error:
        yield _failed(name, "input.patterns", error)
        return
    for origin, query in queries:
        try:
            yield _check_input(config, origin, query)
        except Exception as error:
            yield _failed(name, origin, error)


def _check_output(config: JobConfig, table: TableName) -> Iterator[Finding]:
    jobs = _jobs(table)
    place = f"{table.project}.{table.dataset} lies in {jobs.location}"
    dry_run(jobs, "SELECT 1")
    dry_run(jobs, _creation(table.sibling("_staging")))
    yield Finding("bigquery dataset", "ok", f"{place}; jobs can be run, and tables made")
    wanted = table_schema(_layout(config), carried_columns(config.input))
    for each, schema in ((table, wanted), (runs_table(table), RUNS_SCHEMA)):
        found = jobs.get_table(each)
        if found is None:
            yield Finding("bigquery output", "ok", f"there is no {each} yet; the job makes it")
            continue
        if found.table_type not in (None, "TABLE"):
            seen = f"{each} is a {found.table_type}, not a table"
            yield Finding("bigquery output", "failed", seen, "name another one")
            continue
        problems = list(schema_problems(str(each), schema, found.schema))
        if problems:
            seen = "; ".join(problem.says for problem in problems)
            statements = " ".join(line for problem in problems for line in problem.mended_by)
            yield Finding(
                "bigquery output",
                "failed",
                f"the columns of {each} do not fit: {seen}",
                f"name another table, or run: {statements}",
            )
            continue
        if each == table:
            check_merge(jobs, each, each, [field.name for field in schema])
            if config.output.incremental:
                check_reading(each)
        else:
            check_recording(jobs, each)
        rows = f"{found.num_rows or 0:,} rows"
        yield Finding("bigquery output", "ok", f"{each} has {rows}, and its columns fit")


def _check_input(config: JobConfig, origin: str, query: str) -> Finding:
    rows = dataset_for_rows(config, origin)
    jobs = _jobs(rows)
    columns = carried_columns(config.input)
    read = check_image_query(jobs, query, config.input.uri_column, columns)
    dry_run(jobs, _creation(rows.sibling("_input")))
    names = ", ".join([config.input.uri_column, *(column.name for column in columns)])
    seen = (
        f"{origin} gives {names}; a run is billed for {read / 1e9:.3g} GB, and keeps the rows in "
        f"{rows.project}.{rows.dataset}"
    )
    return Finding("bigquery input", "ok", seen)


def _check_temp_location(config: JobConfig) -> Finding:
    location = config.beam.flags().get("temp_location")
    use = "the rows pass through files there: --temp_location=gs://BUCKET/PREFIX for run"
    if not location:
        seen = "the configuration names none; it may still be given as a flag of run"
        return Finding("temp_location", "suspect", seen, use)
    if not str(location).startswith("gs://"):
        return Finding("temp_location", "failed", f"{location} is not on gs://", use)
    return Finding("temp_location", "ok", f"{location}; see 'cloud storage'")


def _jobs(table: TableName) -> Jobs:
    """What runs jobs where the dataset of the table lies."""
    anywhere = Jobs(table.project, patience_seconds=_PATIENCE_SECONDS)
    location = anywhere.dataset_location(table)
    return Jobs(table.project, location, patience_seconds=_PATIENCE_SECONDS)


def _creation(table: TableName) -> str:
    return f"CREATE TABLE IF NOT EXISTS {table.sql} (uri STRING)"


def _layout(config: JobConfig) -> OutputLayout:
    """A layout with the same columns as that of the run, whatever the model."""
    outputs = config.model.outputs
    top_classes = config.model.top_classes if "top_classes" in outputs else 0
    return OutputLayout(
        embedding_width=1,
        classes=max(top_classes, 1),
        writes_logits="logits" in outputs,
        top_classes=top_classes,
    )


def _failed(name: str, where: str, error: Exception) -> Finding:
    if isinstance(error, JobError | RequestError):
        # What went wrong, and behind the last semicolon what to do.
        seen, _, advice = " ".join(str(error).split()).rpartition("; ")
        return Finding(name, "failed", f"{where}: {seen or advice}", advice if seen else "")
    text = " ".join(str(error).split())[:300]
    return Finding(name, "failed", f"{where}: {type(error).__name__}: {text}")
