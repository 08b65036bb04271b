"""BigQuery and Cloud Storage on loopback, for the tests of tables.

BigQuery runs in an environment of its own, `.venv-bigquery-emulator`, which `make emulators`
builds: its requirements do not go together with ours. It reads gs:// in the folder where the
Cloud Storage emulator, in this process, keeps its objects; what it writes there the other one
does not see.

    with bigquery_emulator() as warehouse:
        warehouse.query("CREATE TABLE photos (uri STRING)")
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from components import require_environment
from storage_emulator import StorageServer

PROJECT = "test-project"
ENVIRONMENT = Path(__file__).parents[2] / ".venv-bigquery-emulator"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Warehouse:
    """An empty dataset and an empty bucket, for one test."""

    project: str
    dataset: str
    bucket: str
    """As gs://name."""
    host: str
    """Of BigQuery: http://127.0.0.1:port."""
    grpc_endpoint: str
    """Of the BigQuery Storage APIs: 127.0.0.1:port, without TLS."""
    storage: StorageServer
    """Of all tests of this process: put, delete and refuse objects of the bucket there."""

    def table(self, name: str) -> str:
        """PROJECT.DATASET.TABLE of a table in the dataset."""
        return f"{self.project}.{self.dataset}.{name}"

    def client(self) -> Any:
        """A new google.cloud.bigquery.Client of the emulator."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(
            self.project,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.host},
        )

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run a statement; a table's name without a dataset means one of this dataset."""
        from google.cloud import bigquery

        settings = bigquery.QueryJobConfig(default_dataset=f"{self.project}.{self.dataset}")
        job = self.client().query(sql, settings, retry=None, job_retry=None, timeout=60)
        rows = job.result(retry=None, job_retry=None, timeout=60)
        return [dict(row.items()) for row in rows]

    def plant_fault(
        self,
        pattern: str,
        *,
        status: int = 503,
        reason: str = "backendError",
        message: str = "planted",
        times: int = 1,
        when: Literal["before", "after", "job"] = "before",
    ) -> None:
        """Let requests to BigQuery go wrong where the pattern is found in "METHOD PATH BODY".

        Args:
            pattern: such as `POST .*/jobs .*"load"`.
            status: of the answer.
            reason: such as backendError, rateLimitExceeded or accessDenied; "" for none.
            message: of the error.
            times: so many requests.
            when: before: nothing is done; after: all is done, only the answer is lost; job: the
                job is made and fails, with nothing done (the status is then 200).
        """
        fault = {
            "pattern": pattern,
            "status": status,
            "reason": reason,
            "message": message,
            "times": times,
            "when": when,
        }
        _request("POST", f"{self.host}/test/faults", fault)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs that this test has made so far, as they were sent, in their order."""
        jobs: list[dict[str, Any]] = json.loads(_request("GET", f"{self.host}/test/jobs"))
        return jobs


@contextlib.contextmanager
def bigquery_emulator() -> Iterator[Warehouse]:
    """Point this process, and those it starts, at a fresh dataset and a fresh bucket.

    The servers are started once a process and serve all its tests. Without the environment of
    the emulator a test fails in CI, and is skipped elsewhere.
    """
    from gcp_storage_emulator.handlers.buckets import create_bucket

    python = require_environment(
        ENVIRONMENT, ".installed", "the BigQuery emulator", "run `make emulators`"
    )
    storage, rest_port, grpc_port = _servers(python)
    name = f"test_{uuid.uuid4().hex[:12]}"
    host = f"http://127.0.0.1:{rest_port}"
    endpoint = f"127.0.0.1:{grpc_port}"
    with storage.lock:
        create_bucket(name, storage.storage)
    _request(
        "POST",
        f"{host}/bigquery/v2/projects/{PROJECT}/datasets",
        {"datasetReference": {"projectId": PROJECT, "datasetId": name}},
    )
    with mock.patch.dict(
        os.environ,
        STORAGE_EMULATOR_HOST=storage.host,
        BIGQUERY_EMULATOR_HOST=host,
        BIGQUERY_STORAGE_EMULATOR_HOST=endpoint,
    ):
        try:
            yield Warehouse(PROJECT, name, f"gs://{name}", host, endpoint, storage)
        finally:
            storage.accept()
            _request("DELETE", f"{host}/test")


@functools.cache
def _servers(python: Path) -> tuple[StorageServer, int, int]:
    folder = Path(tempfile.mkdtemp(prefix="embed-images-emulators-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    storage = StorageServer(folder)
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    rest_port, grpc_port = _start_bigquery(python, folder)
    return storage, rest_port, grpc_port


def _start_bigquery(python: Path, folder: Path) -> tuple[int, int]:
    """Start the emulator; return its REST and its gRPC port as soon as it answers there."""
    log = folder / "bigquery.log"
    address = folder / "bigquery.address"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BQEMU_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                python,
                Path(__file__).with_name("emulator_process.py"),
                str(os.getpid()),
                address,
                PROJECT,
            ],
            cwd=folder,
            env={
                **inherited,
                # Where `make emulators` has put the extensions of DuckDB.
                "HOME": str(ENVIRONMENT),
                "BQEMU_GCS_LOCAL_ROOT": str(folder / ".cloudstorage"),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    atexit.register(_stop, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if address.exists():
            rest_port, grpc_port = map(int, address.read_text().split())
            return rest_port, grpc_port
        time.sleep(0.05)
    _stop(process)
    raise RuntimeError(
        f"the BigQuery emulator did not start (exit status {process.returncode}); the end of its "
        f"log:\n{log.read_text(errors='replace')[-5000:]}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _request(method: str, url: str, body: Any = None) -> bytes:
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
    return content
