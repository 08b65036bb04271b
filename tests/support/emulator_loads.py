"""Lets the BigQuery emulator load Parquet files as BigQuery does. Runs in its process only.

By itself the emulator takes columns by their place instead of their name, keeps the first files of
a job that fails at a later one, and counts the rows of the table instead of those of the job.
"""

from contextvars import ContextVar
from typing import Any

_loaded: ContextVar[list[int]] = ContextVar("loaded")


def load_parquet_as_bigquery_does() -> None:
    from bqemulator.api.routes import jobs
    from bqemulator.jobs import executor

    load_path = executor._load_path_into_target
    execute = executor.execute_load_job

    def load(path: str, job: Any, context: Any) -> None:
        if job.source_format != "PARQUET":
            load_path(path, job, context)
            return
        paths = [executor._resolve_uri(uri, context) for uri in job.source_uris]
        if path == paths[0]:
            # One statement, so all of them or none.
            inserted = context.engine.execute(
                f"INSERT INTO {job.target_ref} BY NAME "
                "SELECT * FROM read_parquet(?, union_by_name = true)",
                [paths],
            )
            _loaded.get().append(inserted.fetchone()[0])

    async def count(project: str, job_id: str, config: Any, context: Any) -> Any:
        rows: list[int] = []
        _loaded.set(rows)
        job = await execute(project, job_id, config, context)
        if not rows or job.error_result:
            return job
        return job.model_copy(update={"statistics": {"load": {"outputRows": str(sum(rows))}}})

    executor._load_path_into_target = load
    jobs.execute_load_job = count
