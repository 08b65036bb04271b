"""Where a run writes: a folder, a table, or both; and what earlier runs have left there."""

import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.config import OutputConfig
from pipeline.inputs import table_name
from transforms.bigquery.access import check_run_access
from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.errors import request_errors
from transforms.bigquery.runs import record_run
from transforms.bigquery.schema import table_schema
from transforms.bigquery.table import held_sets, prepare_table, runs_table
from transforms.errors import RequestError
from transforms.folders.output_folder import (
    FileFormat,
    check_incremental_output,
    check_output,
    check_temporary_folder,
    claim_output,
    create_run_folder,
    join,
    prepare_output,
    run_folder,
    schema_path,
    write_text,
)
from transforms.folders.run_report import RecordRun
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import embeddings_schema_text
from transforms.ledgers.incremental_runs import (
    Facts,
    VectorSet,
    complete_runs,
    heads,
    manifest_files,
    vector_sets,
)
from transforms.records import CarriedColumn, OutputLayout
from transforms.search.vector_search_sql import newest_reports_query

#: Of a run that writes into a table alone: below --temp_location.
_RUNS_OF_TABLES = "embed-images"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one run writes, and from which earlier runs it starts."""

    run_id: str
    """Begins with the start of the run, so that runs sort by it."""
    started_at: datetime.datetime
    folder: str | None
    """As the user named it; None where only a table is written."""
    run_folder: str
    """What belongs to this run alone: run.json, the dead letters and, where there is a `folder`,
    the embeddings. Of a plain run it is `folder` itself."""
    formats: tuple[FileFormat, ...] = ("tfrecord",)
    """Of the embeddings in the run folder; none where there is no `folder`."""
    table: TableName | None = None
    staging_folder: str = ""
    """On gs://, for the files that are loaded into the table."""
    incremental: bool = False
    parents: tuple[str, ...] = ()
    """Ids of the runs whose manifests say what the folder holds."""
    manifests: tuple[str, ...] = ()
    """Of the parents."""
    known_runs: frozenset[str] = frozenset()
    """Ids of all complete runs in the folder."""

    @property
    def has_ledger(self) -> bool:
        """Whether the run writes a manifest."""
        return self.incremental and self.folder is not None

    @property
    def record(self) -> RecordRun | None:
        """What tells the table of runs of this one."""
        return None if self.table is None else partial(record_run, self.table)

    def in_words(self) -> str:
        """Return what a person is told of where the rows are."""
        table = () if self.table is None else (f"bq://{self.table}",)
        return " and ".join((*filter(None, [self.folder]), *table))


def settle_destination(
    output: OutputConfig, options: PipelineOptions
) -> tuple[Destination, dict[str, Sequence[VectorSet]]]:
    """Check where the run is to write, and look up what earlier runs have left there.

    Creates folders, and deletes nothing.

    Args:
        output: with an absolute path.
        options: Beam's, of which --temp_location is used where a table is written.

    Returns:
        The destination, and for each output of it, by its name, the sets of vectors that it
        holds as far as an incremental run can go on from them.

    Raises:
        RequestError: an output cannot be written, or not by such a run.
    """
    started_at = datetime.datetime.now(datetime.UTC)
    run_id = f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    table = table_name(output.table) if output.table else None
    folder = output.path
    temporary = ""
    if table is not None:
        temporary = _temporary_folder(options, run_id)
        check_temporary_folder(temporary)
    runs: Mapping[str, Facts] = {}
    parents: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    sets: dict[str, Sequence[VectorSet]] = {}
    if folder is None:
        of_run = temporary
    elif output.incremental:
        check_incremental_output(folder)
        of_run = run_folder(folder, run_id)
        runs = complete_runs(folder)
        parents = heads(runs)
        manifests = manifest_files(folder, parents)
        sets[folder] = vector_sets(runs)
    else:
        check_output(folder, overwrite=output.overwrite)
        of_run = folder
    if table is not None:
        sets[f"bq://{table}"] = recorded_sets(table)
    destination = Destination(
        run_id=run_id,
        started_at=started_at,
        folder=folder,
        run_folder=of_run,
        formats=output.formats if folder else (),
        table=table,
        staging_folder=join(temporary, "rows") if table else "",
        incremental=output.incremental,
        parents=parents,
        manifests=manifests,
        known_runs=frozenset(runs),
    )
    return destination, sets


def _temporary_folder(options: PipelineOptions, run_id: str) -> str:
    location = options.view_as(GoogleCloudOptions).temp_location
    if not (location or "").startswith("gs://"):
        has = f"is {location}" if location else "is missing"
        raise RequestError(
            f"--temp_location {has}; the rows for BigQuery are loaded from files in a bucket, so "
            "use --temp_location=gs://BUCKET/PREFIX"
        )
    return join(location, _RUNS_OF_TABLES, run_id)


def recorded_sets(table: TableName) -> tuple[VectorSet, ...]:
    """Return the sets of vectors in a table, as its table of runs describes them.

    A set counts if the table has a row of it, and if a run that wrote such rows is recorded: one
    that is complete, or one that was killed while its rows may have been on their way.

    Raises:
        RequestError: the dataset is not there, or may not be read.
    """
    runs = runs_table(table)
    with request_errors():
        jobs = Jobs(table.project, Jobs(table.project).dataset_location(table))
        if jobs.get_table(runs) is None:
            return ()
        rows = jobs.query_rows(newest_reports_query(runs.sql, or_merging=True))
    if not rows:
        return ()
    held = held_sets(table)
    reports = [json.loads(row["report"]) for row in rows]
    described = vector_sets({report["run_id"]: report for report in reports})
    return tuple(each for each in described if each.provenance.set_key in held)


def set_of(sets: Sequence[VectorSet], provenance: Provenance) -> VectorSet | None:
    """Return the set that new vectors of this provenance belong to, or None."""
    return next((each for each in sets if each.provenance.set_key == provenance.set_key), None)


def refuse_other_models(sets: Mapping[str, Sequence[VectorSet]], provenance: Provenance) -> None:
    """Refuse a run whose vectors cannot be compared with any that an output holds.

    Raises:
        RequestError: an output holds sets of vectors, and the run's is not among them.
    """
    for output, found in sets.items():
        if found and set_of(found, provenance) is None:
            listed = "; ".join(each.provenance.in_words() for each in found)
            raise RequestError(
                f"{output} holds vectors of {listed}; this run would write those of "
                f"{provenance.in_words()}. Vectors of two models, contracts or precisions cannot "
                "be compared: use another output, or let both stand side by side with "
                "--allow-other-models"
            )


def prepare_destination(
    destination: Destination,
    output: OutputConfig,
    layout: OutputLayout,
    columns: tuple[CarriedColumn, ...],
    provenance: Provenance,
) -> None:
    """Make the outputs ready for the run: tables and folders made, an older output removed.

    Raises:
        RequestError: the columns of the table do not fit, a permission is missing, or an output
            cannot be written.
    """
    if destination.table is not None:
        prepare_table(
            destination.table,
            layout,
            columns,
            provenance,
            allow_other_models=output.allow_other_models,
        )
        with request_errors():
            check_run_access(
                destination.table,
                destination.run_id,
                table_schema(layout, columns),
                reads=destination.incremental,
            )
    if destination.run_folder == destination.folder:
        prepare_output(destination.folder, overwrite=output.overwrite)
    else:
        create_run_folder(destination.run_folder)
    claim_output(destination.run_folder, destination.run_id)
    if "tfrecord" in destination.formats:
        text = embeddings_schema_text(layout, columns)
        write_text(schema_path(destination.run_folder), text)


def destination_facts(destination: Destination) -> dict[str, Any]:
    """Return what run.json says of the destination."""
    return {
        "run_id": destination.run_id,
        "started_at": destination.started_at.isoformat(timespec="milliseconds"),
        "parents": list(destination.parents),
        "table": str(destination.table) if destination.table else None,
    }
