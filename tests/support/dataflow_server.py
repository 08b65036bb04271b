"""Dataflow on loopback: it takes jobs as the service does, and can run what was staged for one.

It speaks as much of the REST interface as Beam's runner asks for: create a job, get it, its
metrics and its messages. Beam chooses REST where the word localhost stands in the endpoint.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs")
_JOB = re.compile(rf"{_JOBS.pattern}/([^/]+?)(/metrics|/messages)?")


@contextlib.contextmanager
def dataflow_server(*, run_jobs: bool = False) -> Iterator["DataflowServer"]:
    """A server until the block ends; see `DataflowServer`."""
    server = DataflowServer(run_jobs=run_jobs)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.wait_for_jobs()


class DataflowServer(ThreadingHTTPServer):
    """Takes jobs, and keeps what was said of them.

    With `run_jobs` each is run at once, by Beam's local engine in a thread of this process.
    Otherwise it stays pending until `run`.
    """

    daemon_threads = True

    def __init__(self, *, run_jobs: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://localhost:{self.server_address[1]}"
        self.jobs: list[dict[str, Any]] = []
        """As they were sent, with the project and the region they were sent to."""
        self.refusal: tuple[int, str] | None = None
        """Status and message of the answer to the next jobs, in place of taking them."""
        self.authorization: list[str] = []
        """How the jobs were sent: the header of that name."""
        self._run_jobs = run_jobs
        self._states: list[str] = []
        self._runs: list[threading.Thread] = []

    def create(self, job: dict[str, Any], project: str, region: str) -> dict[str, Any]:
        """Take a job; return what is known of it."""
        self.jobs.append({**job, "project": project, "region": region})
        self._states.append("JOB_STATE_PENDING")
        number = len(self.jobs) - 1
        if self._run_jobs:
            thread = threading.Thread(target=self.run, args=(number,))
            self._runs.append(thread)
            thread.start()
        return self.describe(f"job-{number}")

    def describe(self, job_id: str) -> dict[str, Any]:
        """Return what is known of a job."""
        number = int(job_id.removeprefix("job-"))
        job = self.jobs[number]
        return {
            "id": job_id,
            "projectId": job["project"],
            "location": job["region"],
            "name": job["name"],
            "type": job["type"],
            "clientRequestId": job["clientRequestId"],
            "currentState": self._states[number],
        }

    def run(self, number: int) -> str:
        """Run a job, from nothing but what was staged for it; return the state it ends in."""
        self._states[number] = "JOB_STATE_RUNNING"
        self._states[number] = _run_staged(self.jobs[number])
        return self._states[number]

    def wait_for_jobs(self) -> None:
        """Wait until every job that runs has ended."""
        for thread in self._runs:
            thread.join()


def _run_staged(job: dict[str, Any]) -> str:
    """Run a job from what it has staged; return the state it ends in."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    pipeline = staged_pipeline(job)
    for environment in pipeline.components.environments.values():
        # Its containers are this process.
        environment.urn = python_urns.EMBEDDED_PYTHON
        environment.payload = b""
        del environment.dependencies[:]
    try:
        FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
    except Exception:
        return "JOB_STATE_FAILED"
    return "JOB_STATE_DONE"


def staged_pipeline(job: dict[str, Any]) -> Any:
    """Read the pipeline back that was staged for a job: Beam's proto of that name."""
    from apache_beam.portability.api import beam_runner_api_pb2

    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return beam_runner_api_pb2.Pipeline.FromString(read_staged(url))


def read_staged(url: str) -> bytes:
    """Read a staged file as it is."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(url, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return bytes(file.read())


def _with_names(body: bytes) -> dict[str, Any]:
    """Return a job as JSON in which values of enumerations are names; Beam sends their numbers."""
    from google.cloud.dataflow_v1beta3 import Job
    from google.protobuf import json_format

    job = json_format.Parse(body, Job.pb(Job()))
    return dict(json_format.MessageToDict(job))


class _Handler(BaseHTTPRequestHandler):
    server: DataflowServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = _JOBS.fullmatch(self.path.partition("?")[0])
        self.server.authorization.append(self.headers.get("Authorization", ""))
        if self.server.refusal:
            status, message = self.server.refusal
            self._answer(status, {"error": {"code": status, "message": message}})
        elif target:
            self._answer(200, self.server.create(_with_names(body), *target.groups()))
        else:
            self._answer(404, {})

    def do_GET(self) -> None:
        target = _JOB.fullmatch(self.path.partition("?")[0])
        if target is None:
            self._answer(404, {})
        elif target[4]:
            # Neither metrics nor messages: that is how a job begins.
            self._answer(200, {})
        else:
            self._answer(200, self.server.describe(target[3]))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing."""
