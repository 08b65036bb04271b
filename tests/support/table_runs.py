"""Runs that write into a table of BigQuery, as far as a test wants them to come."""

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from bigquery_emulator import Warehouse

from transforms.bigquery.client import TableName
from transforms.bigquery.load import LoadResult, create_staging, load_files, run_jobs, staging_table
from transforms.bigquery.schema import table_schema
from transforms.bigquery.table import prepare_table
from transforms.formats.embedding_rows import RowStamp, embedding_rows
from transforms.formats.embedding_table import Provenance
from transforms.formats.row_files import write_row_file
from transforms.records import (
    CarriedColumn,
    CarriedValue,
    Embedding,
    ImageInfo,
    Origin,
    OutputLayout,
)

LAYOUT = OutputLayout(3)
MODEL = Provenance("gs://models/a", "a" * 16, "c" * 16)
OTHER_MODEL = Provenance("gs://models/b", "b" * 16, "c" * 16)

FIRST, SECOND, THIRD = (f"20261120T06000{n}Z-{n:08x}" for n in (1, 2, 3))
"""Ids of runs in the order in which they began."""


def embedding(
    uri: str,
    embedded_at: float = 1_000.0,
    value: float = 0.0,
    carried: tuple[CarriedValue, ...] = (),
) -> Embedding:
    info = ImageInfo(uri, f"{abs(hash(uri)):064x}", "PNG", 20, 30, Origin("7", carried))
    return Embedding(info, np.full(3, value, np.float32), 1.0, embedded_at)


def stamp(
    run_id: str, model: Provenance = MODEL, columns: tuple[CarriedColumn, ...] = ()
) -> RowStamp:
    return RowStamp(model, run_id, LAYOUT, columns)


def new_table(
    warehouse: Warehouse, model: Provenance = MODEL, columns: tuple[CarriedColumn, ...] = ()
) -> TableName:
    table = TableName.parse(warehouse.table("embeddings"))
    prepare_table(table, LAYOUT, columns, model)
    return table


def write_file(warehouse: Warehouse, embeddings: Sequence[Embedding], made: RowStamp) -> str:
    path = f"{warehouse.bucket}/{made.run_id}/rows-{uuid.uuid4().hex}.parquet"
    write_row_file(path, embedding_rows(embeddings, made, vectors="float32"))
    return path


def stage(
    warehouse: Warehouse, table: TableName, made: RowStamp, embeddings: Sequence[Embedding]
) -> LoadResult:
    """Bring the rows of a run into its staging table."""
    staging = staging_table(table, made.run_id)
    jobs = run_jobs(table, made.run_id)
    create_staging(jobs, staging, table_schema(LAYOUT, made.columns))
    files = [write_file(warehouse, embeddings, made)] if embeddings else []
    return load_files(jobs, staging, made.run_id, files)


def contents(warehouse: Warehouse, table: str = "embeddings") -> list[tuple[Any, ...]]:
    """URI, first letter of the model's fingerprint, run and value of each row, in order."""
    rows = warehouse.query(
        f"SELECT uri, model_fingerprint, run_id, embedding FROM {table} ORDER BY 1, 2, 3"
    )
    return [
        (row["uri"], row["model_fingerprint"][0], row["run_id"], row["embedding"][0])
        for row in rows
    ]


def tables(warehouse: Warehouse) -> set[str]:
    dataset = f"{warehouse.project}.{warehouse.dataset}"
    return {table.table_id for table in warehouse.client().list_tables(dataset)}
