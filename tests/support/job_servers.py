"""Beam's job servers, and a pool of workers apart from them, on ports of this machine.

Each is a process of its own that ends with its `with` block, and with this process whatever
becomes of it. `make engines` brings the jars of Flink and Spark.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from components import require_jars, require_java

ROOT = Path(__file__).parents[2]

#: On a machine that is busy with other tests, a Java server takes a third of it.
START_SECONDS = 120.0

T = TypeVar("T")


class Server:
    """A process that serves, with all that it starts."""

    def __init__(
        self, command: list[str], folder: Path, environment: Mapping[str, str] = {}
    ) -> None:
        self._log = folder / "server.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("end_with_parent.py")),
                    str(os.getpid()),
                    *command,
                ],
                # Workers are to import the code of this tree, wherever else it is installed.
                cwd=ROOT,
                # Workers of a pool are started as "python": that of this environment.
                env={
                    **os.environ,
                    **environment,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        """Return what it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], T | None]) -> T:
        """Return what the condition returns as soon as that is true.

        Raises:
            RuntimeError: the process has ended, or it takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if answer := condition():
                return answer
            time.sleep(0.05)
        raise RuntimeError(f"a server did not start; the end of its log:\n{self.log()[-5000:]}")

    def processes(self, command: str) -> list[int]:
        """Return the processes that it has started whose command line holds that text."""
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,pgid=,command="],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return [
            int(pid)
            for pid, group, line in rows
            if int(group) == self._process.pid and command in line
        ]

    def stop(self) -> None:
        """End it, at once, with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def java_job_server(engine: str) -> Iterator[str]:
    """Beam's job server for flink or spark, with that engine in the same process.

    Gives its endpoint. Without its jars or without Java 17 a test fails in CI, and is skipped
    elsewhere.
    """
    require_java()
    require_jars(ROOT / ".engines" / engine)
    with _folder() as folder:
        command = [
            *(str(ROOT / "deploy" / "job_server.sh"), engine),
            *("--job-port=0", "--artifact-port=0", f"--artifacts-dir={folder / 'artifacts'}"),
        ]
        # What they unpack and spill goes with the folder.
        options = {"JAVA_TOOL_OPTIONS": f"-Xmx1g -Djava.io.tmpdir={folder}"}
        with _running(command, folder, options) as server:
            started = re.compile(r"JobService started on (localhost:\d+)")
            yield server.wait_until(lambda: started.search(server.log()))[1]


@contextlib.contextmanager
def local_job_server() -> Iterator[str]:
    """Beam's own job server, which runs jobs in its process and needs no Java."""
    with _folder() as folder:
        port = folder / "port"
        command = [
            *(sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"),
            *(f"--port_file={port}", f"--staging_dir={folder / 'staged'}"),
        ]
        with _running(command, folder) as server:
            server.wait_until(port.exists)
            yield f"localhost:{port.read_text()}"


class WorkerPool:
    """Starts workers, each a process, where a job server asks for them."""

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self.address = address
        """For --environment_config."""

    def workers(self) -> list[int]:
        """Return the processes of the workers that there are now."""
        return self._server.processes("SdkHarness(")


@contextlib.contextmanager
def worker_pool() -> Iterator[WorkerPool]:
    """A pool of workers that is neither in the job server nor in this process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
        f"--service_port={port}",
    ]
    with _folder() as folder, _running(command, folder) as server:
        server.wait_until(lambda: _answers(port))
        yield WorkerPool(server, f"localhost:{port}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _running(
    command: list[str], folder: Path, environment: Mapping[str, str] = {}
) -> Iterator[Server]:
    server = Server(command, folder, environment)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="embed-images-engine-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
