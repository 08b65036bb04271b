"""BigQuery: names of tables, one client a process, and jobs that may safely be asked for twice.

Nothing here knows Beam. With the environment variable BIGQUERY_EMULATOR_HOST everything goes to
an emulator, without a look for credentials.

Within a job of ours a step may be run again, by another worker, or at the same time by two. A
BigQuery job under a fixed id is then still run once: whoever asks second waits for the job of
the first (https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid).
"""

import functools
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.api_core.exceptions import Conflict, NotFound
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from transforms.bigquery.errors import (
    PATIENCE_SECONDS,
    JobProblem,
    explained_errors,
    is_transient,
    patient_retry,
)
from transforms.workers.worker_log import log_event

Parameter: TypeAlias = bigquery.ScalarQueryParameter | bigquery.ArrayQueryParameter

EMULATOR_VARIABLE = "BIGQUERY_EMULATOR_HOST"

#: Of one request, not of a job.
REQUEST_SECONDS = 120.0

#: Under so many ids a job is tried before it is given up: its own, `<id>_2`, `<id>_3` ...
MAX_ATTEMPTS = 50

#: How often in a row this process itself starts a job that fails for the moment.
MAX_TRANSIENT_FAILURES = 8

_TABLE = re.compile(
    r"(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*[a-z0-9])"
    r"\.(?P<dataset>\w+)"
    # Letters, digits, connectors, dashes and spaces of any script:
    # https://cloud.google.com/bigquery/docs/tables#table_naming
    r"\.(?P<table>[\w -]+)"
)
_MAX_TABLE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class TableName:
    """The full name of a table.

    Example:
        >>> table = TableName.parse("bq://project-1.photos.embeddings")
        >>> table.sql, str(table.sibling("_runs"))
        ('`project-1.photos.embeddings`', 'project-1.photos.embeddings_runs')
    """

    project: str
    dataset: str
    table: str

    @classmethod
    def parse(cls, text: str) -> "TableName":
        """Read PROJECT.DATASET.TABLE, with or without bq:// before it.

        Raises:
            ValueError: a part is missing, or holds what its name may not hold.
        """
        match = _TABLE.fullmatch(text.removeprefix("bq://"))
        if not match or len(match["table"].encode()) > _MAX_TABLE_BYTES:
            raise ValueError(
                f"{text!r} is no table; write bq://PROJECT.DATASET.TABLE, where a dataset has "
                "letters, digits and _, and a table also dashes and spaces, such as "
                "bq://my-project.photos.embeddings"
            )
        return cls(match["project"], match["dataset"], match["table"])

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def sql(self) -> str:
        """The name as it stands in a statement, in backticks."""
        return f"`{self}`"

    @property
    def reference(self) -> bigquery.TableReference:
        """The name as google-cloud-bigquery takes it."""
        return bigquery.TableReference(
            bigquery.DatasetReference(self.project, self.dataset), self.table
        )

    def sibling(self, suffix: str) -> "TableName":
        """The table of the same dataset whose name goes on with a suffix."""
        return TableName.parse(f"{self}{suffix}")


def client(project: str) -> bigquery.Client:
    """Return the client of this process for jobs that the project pays for.

    Raises:
        google.auth.exceptions.GoogleAuthError: there are no credentials.
    """
    return _client(project, os.environ.get(EMULATOR_VARIABLE), os.getpid())


@functools.lru_cache(maxsize=8)
def _client(project: str, emulator: str | None, process: int) -> bigquery.Client:
    # A forked process must not share the connections of its parent.
    if emulator:
        return bigquery.Client(
            project,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": emulator},
        )
    return bigquery.Client(project)


@dataclass(frozen=True, slots=True)
class Jobs:
    """Runs BigQuery jobs to their end. It may be pickled, and shared by threads.

    Every method raises:
        JobError: BigQuery refuses what is asked for, or has failed too often. The message says
            what to grant or to change.

    Example:
        >>> jobs = Jobs("my-project", "EU", run_id="20261120t063000z-0f2a")
        >>> jobs.run_query("SELECT 1", job_id="one")  # doctest: +SKIP
    """

    project: str
    """Pays for the jobs; needs roles/bigquery.jobUser."""
    location: str | None = None
    """Where the tables lie, as `dataset_location` tells. Without it a job outside of the US and
    the EU is not found again under its id."""
    run_id: str | None = None
    """Becomes the label `run_id` of every job."""
    patience_seconds: float = PATIENCE_SECONDS
    """For how long a request that fails for the moment is repeated."""

    def run_query(
        self,
        sql: str,
        parameters: Sequence[Parameter] = (),
        *,
        job_id: str | None = None,
        config: bigquery.QueryJobConfig | None = None,
    ) -> bigquery.QueryJob:
        """Run a statement or a script; return the job once it is done.

        Args:
            sql: with @name for the parameters.
            parameters: for the names in the statement.
            job_id: a fixed id, under which the job has run at most once when this returns.
                Without it the statement is run again where it fails for the moment.
            config: what else to say of the job.
        """
        settings = config or bigquery.QueryJobConfig()
        settings.query_parameters = list(parameters)
        settings.labels = self._labels()

        def start(name: str) -> bigquery.QueryJob:
            return client(self.project).query(
                sql,
                settings,
                job_id=name,
                location=self.location,
                retry=self._retry(),
                timeout=REQUEST_SECONDS,
                job_retry=None,  # Only this class knows under which id to repeat it.
            )

        return self._run(start, job_id)

    def query_rows(
        self,
        sql: str,
        parameters: Sequence[Parameter] = (),
        *,
        job_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Run a statement whose answer is small; return its rows."""
        job = self.run_query(sql, parameters, job_id=job_id)
        with explained_errors(self.project):
            rows = job.result(retry=self._retry(), timeout=REQUEST_SECONDS, job_retry=None)
            return [dict(row.items()) for row in rows]

    def run_load(
        self,
        uris: Sequence[str],
        table: TableName,
        config: bigquery.LoadJobConfig,
        *,
        job_id: str,
    ) -> bigquery.LoadJob:
        """Load files from gs:// into a table; return the job once it is done.

        Args:
            uris: at most 10,000, which may hold one `*` each.
            table: where the rows go.
            config: the format and what becomes of the rows that are there.
            job_id: a fixed id: repeated calls load the files once.

        Raises:
            RefusedData: what the files hold does not fit the table.
        """
        config.labels = self._labels()

        def start(name: str) -> bigquery.LoadJob:
            return client(self.project).load_table_from_uri(
                list(uris),
                table.reference,
                job_id=name,
                location=self.location,
                job_config=config,
                retry=self._retry(),
                timeout=REQUEST_SECONDS,
            )

        return self._run(start, job_id)

    def get_table(self, table: TableName) -> bigquery.Table | None:
        """Return what BigQuery knows of a table: schema, number of rows; None if there is none."""
        with explained_errors(self.project):
            try:
                return client(self.project).get_table(
                    table.reference, retry=self._retry(), timeout=REQUEST_SECONDS
                )
            except NotFound:
                # A dataset that is not there is another matter.
                self.dataset_location(table)
                return None

    def create_table(self, table: bigquery.Table) -> bigquery.Table:
        """Create a table unless it is there already; return it."""
        with explained_errors(self.project):
            return client(self.project).create_table(
                table, exists_ok=True, retry=self._retry(), timeout=REQUEST_SECONDS
            )

    def delete_table(self, table: TableName) -> None:
        """Delete a table, if it is there."""
        with explained_errors(self.project):
            client(self.project).delete_table(
                table.reference,
                not_found_ok=True,
                retry=self._retry(),
                timeout=REQUEST_SECONDS,
            )

    def dataset_location(self, table: TableName) -> str:
        """Return where the dataset of the table lies, such as EU, for `location`."""
        with explained_errors(self.project):
            dataset = client(self.project).get_dataset(
                bigquery.DatasetReference(table.project, table.dataset),
                retry=self._retry(),
                timeout=REQUEST_SECONDS,
            )
        return str(dataset.location)

    def _run(self, start: Callable[[str], Any], job_id: str | None) -> Any:
        name = first_id = job_id or f"embed_images_{uuid.uuid4().hex}"
        attempt = 1
        failures = 0
        while True:
            with explained_errors(self.project):
                job, is_ours = self._start_or_join(start, name)
                self._wait(job)
            problem = JobProblem.of(job)
            if problem is None:
                return job
            # A job of somebody else failed in an earlier attempt at this step, perhaps for a
            # reason that is gone by now.
            failures += is_ours
            if problem.is_refused_data or (is_ours and not problem.is_transient):
                raise problem.as_error()
            if failures == MAX_TRANSIENT_FAILURES or attempt == MAX_ATTEMPTS:
                raise problem.as_error()
            if is_ours:
                log_event(logging.WARNING, "job-retried", job=name, reason=problem.reason)
                time.sleep(random.uniform(0.5, 1.0) * min(60.0, 2.0**failures))
            attempt += 1
            name = f"{first_id}_{attempt}"

    def _start_or_join(self, start: Callable[[str], Any], name: str) -> tuple[Any, bool]:
        """Return the job of that id, and whether it was started here."""
        try:
            return start(name), True
        except Conflict as error:
            if not re.search(r"already exists: job ", str(error.message), re.IGNORECASE):
                raise
        # For a moment BigQuery may not know the job that it has just refused to start twice
        # (https://github.com/googleapis/python-bigquery/issues/2134).
        retry = Retry(
            predicate=lambda error: isinstance(error, NotFound) or is_transient(error),
            initial=0.5,
            maximum=30.0,
            timeout=min(self.patience_seconds, 120.0),
        )
        job = client(self.project).get_job(
            name, location=self.location, retry=retry, timeout=REQUEST_SECONDS
        )
        return job, False

    def _wait(self, job: Any) -> None:
        """Wait until a job is done, however long it takes."""
        pause = 0.05
        while job.state != "DONE":
            time.sleep(pause)
            pause = min(pause * 1.5, 5.0)
            job.reload(retry=self._retry(), timeout=REQUEST_SECONDS)

    def _labels(self) -> dict[str, str]:
        # https://cloud.google.com/bigquery/docs/labels-intro#requirements
        run_id = re.sub(r"[^a-z0-9_-]", "-", (self.run_id or "").lower())[:63]
        return {"application": "embed-images"} | ({"run_id": run_id} if run_id else {})

    def _retry(self) -> Retry:
        return patient_retry(self.patience_seconds)
