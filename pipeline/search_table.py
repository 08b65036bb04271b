"""A table of embeddings in BigQuery, as what `search` looks through."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.cloud import bigquery

from pipeline.recorded_run import RecordedRun
from pipeline.search_report import Neighbour, printable
from transforms.bigquery.client import Jobs, Parameter, TableName
from transforms.bigquery.errors import request_errors
from transforms.bigquery.schema import sql_type
from transforms.bigquery.sql import sets_sql
from transforms.errors import JobError, RequestError
from transforms.formats.embedding_table import Provenance
from transforms.records import Vector
from transforms.search.vector_search_sql import (
    DISTANCE,
    SET_COLUMNS,
    SHOWN_COLUMNS,
    exact_query,
    lacks_vector_search,
    newest_reports_query,
    vector_search_query,
)
from transforms.sources.carried_columns import RESERVED_NAMES

#: What a carried column may be.
_CARRIED_TYPES = ("STRING", "INT64", "FLOAT64", "BOOL")

#: Somebody sits before the screen and waits.
_PATIENCE_SECONDS = 60.0


class EmbeddingsTable:
    """A table that run has written, with its table of runs beside it.

    The table's project pays for the queries.

    Args:
        location: bq://PROJECT.DATASET.TABLE.
        say: takes a line on what is out of the ordinary.

    Raises:
        RequestError: this is no name of a table.
    """

    def __init__(self, location: str, say: Callable[[str], None]) -> None:
        try:
            self._table = TableName.parse(location)
        except ValueError as error:
            raise RequestError(f"--in {error}") from error
        self._say = say
        self._jobs = Jobs(self._table.project, patience_seconds=_PATIENCE_SECONDS)

    def reports(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the place and the report of the newest run of each set, the newest first.

        Raises:
            RequestError: the table or that of its runs is not there, may not be read, or holds
                no complete run.
        """
        runs = self._table.sibling("_runs")
        with request_errors():
            location = self._jobs.dataset_location(self._table)
            self._jobs = Jobs(self._table.project, location, patience_seconds=_PATIENCE_SECONDS)
            for table in (self._table, runs):
                if self._jobs.get_table(table) is None:
                    raise RequestError(
                        f"--in bq://{self._table}: there is no table {table}; name the --output "
                        "bq://PROJECT.DATASET.TABLE of a run that is done"
                    )
            rows = self._jobs.query_rows(newest_reports_query(runs.sql))
        if not rows:
            raise RequestError(f"--in bq://{self._table}: no run has completed ({runs} names none)")
        # The query has found JSON in each of them.
        return [(f"the newest row of {runs} for it", json.loads(row["report"])) for row in rows]

    def nearest(
        self, vector: Vector, run: RecordedRun, count: int, *, exact: bool
    ) -> tuple[list[Neighbour], bool]:
        """Return the rows nearest to the vector, and whether every row was compared for certain.

        Raises:
            RequestError: the table holds no rows of the run's set.
            JobError: BigQuery has failed.
        """
        carried = self._carried_columns()
        columns = [*SHOWN_COLUMNS, *carried]
        parameters = _parameters(vector, run.provenance)
        table = self._table.sql
        try:
            query = vector_search_query(table, columns, count, exact=exact)
            rows = self._jobs.query_rows(query, parameters)
        except JobError as error:
            if not lacks_vector_search(str(error)):
                raise
            self._say("there is no VECTOR_SEARCH here; comparing every row by COSINE_DISTANCE")
            rows = self._jobs.query_rows(exact_query(table, columns, count), parameters)
            exact = True
        if not rows:
            raise RequestError(self._explain_nothing(run.provenance))
        found = [
            Neighbour(
                # Rounding can carry a cosine of 1 a little beyond it.
                cosine=float(np.clip(1.0 - row[DISTANCE], -1.0, 1.0)),
                uri=row["uri"],
                sha256=row["sha256"],
                format=row["format"],
                height=row["height"],
                width=row["width"],
                carried={name: row[name] for name in carried},
            )
            for row in rows
        ]
        return found, exact

    def _carried_columns(self) -> list[str]:
        table = self._jobs.get_table(self._table)
        return [
            field.name
            for field in (table.schema if table else ())
            if field.name.lower() not in RESERVED_NAMES and sql_type(field) in _CARRIED_TYPES
        ]

    def _explain_nothing(self, made_by: Provenance) -> str:
        sets = self._jobs.query_rows(sets_sql(self._table.sql))
        held = "; ".join(
            f"{one['row_count']:,} rows of {printable(one['model'])} with "
            + ", ".join(f"{name} {one[name]}" for name in SET_COLUMNS)
            for one in sets
        )
        wanted = ", ".join(f"{name} {getattr(made_by, name)}" for name in SET_COLUMNS)
        return f"--in bq://{self._table}: there are no rows with {wanted}; " + (
            f"it holds {held}; name one of these models with --model" if held else "it is empty"
        )


def _parameters(vector: Vector, made_by: Provenance) -> list[Parameter]:
    numbers = vector.astype(np.float64).tolist()
    return [
        bigquery.ArrayQueryParameter("embedding", "FLOAT64", numbers),
        *(
            bigquery.ScalarQueryParameter(name, "STRING", getattr(made_by, name))
            for name in SET_COLUMNS
        ),
    ]
