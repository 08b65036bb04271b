"""A Cloud Storage on loopback, in this process.

gcp-storage-emulator keeps the objects. What it leaves out, and the tests need, is added here:
requests at the same time, lists in pages and in parts (`fields`), the generation of what was
downloaded, and, on request, latency and errors.
"""

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "models"

_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_DOWNLOAD = re.compile(r"/download/storage/v1/b/([^/]+)/o/(.+)")


@contextlib.contextmanager
def storage_emulator(folder: Path | None = None) -> Iterator[str]:
    """Point the process at an empty emulator until the block ends; give gs:// of a bucket.

    With a folder, the objects lie as files in `folder`/.cloudstorage/`bucket`, for the BigQuery
    emulator to read them there.
    """
    with storage_server(folder) as server:
        yield server.address


@contextlib.contextmanager
def storage_server(folder: Path | None = None) -> Iterator["StorageServer"]:
    """As `storage_emulator`, and give the server itself."""
    server = StorageServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST=server.host):
            yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class StorageServer(ThreadingHTTPServer):
    """The emulator, with what a test may want to know of it and do to it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path | None = None) -> None:
        from gcp_storage_emulator.handlers.buckets import create_bucket
        from gcp_storage_emulator.storage import Storage

        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        logging.getLogger("api").setLevel(logging.CRITICAL)
        self.storage = Storage(
            use_memory_fs=folder is None, data_dir=folder and str(folder.absolute())
        )
        # It writes all that it knows of all objects into one file, after each change, for the
        # next start. There is none.
        self.storage._write_config_to_file = lambda: None
        create_bucket(BUCKET, self.storage)
        self.address = f"gs://{BUCKET}"
        self.delay_seconds = 0.0
        """Before each answer."""
        self.page_size = 1000
        """The most objects that one answer to a list holds."""
        self.requests: list[str] = []
        """Method and target of each request so far."""
        self.on_request: Callable[[str], None] | None = None
        """Called with method and target of each request before it is answered, in its thread."""
        self.largest_in_flight = 0
        """The largest number of requests that were at work at the same time."""
        self._in_flight = 0
        self._refused: list[list[Any]] = []
        self.lock = threading.Lock()
        """Held while the storage is used, which is made for one thread."""
        super().__init__(("127.0.0.1", 0), partial(_handler_class(), self.storage))
        self.host = f"http://127.0.0.1:{self.server_address[1]}"

    def refuse(self, pattern: str, status: int, times: int | None = None) -> None:
        """Answer with an error where the pattern is found in method and target, so many times.

        Example: refuse("GET /download/.*a.jpg", 503, times=1). None: from now on.
        """
        self._refused.append([re.compile(pattern), status, times])

    def accept(self) -> None:
        """Forget what is to be refused."""
        self._refused.clear()

    def put(self, name: str, content: bytes, bucket: str = BUCKET) -> None:
        """Write an object, not over the network; an unknown bucket is created."""
        from gcp_storage_emulator.handlers.buckets import create_bucket
        from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource

        with self.lock:
            if bucket not in self.storage.buckets:
                create_bucket(bucket, self.storage)
            resource = _make_object_resource(
                self.host, bucket, name, "application/octet-stream", str(len(content))
            )
            self.storage.create_file(bucket, name, content, _checksums(content, resource))

    def delete(self, name: str, bucket: str = BUCKET) -> None:
        """Delete an object, not over the network."""
        with self.lock:
            self.storage.delete_file(bucket, name)

    def generation(self, name: str, bucket: str = BUCKET) -> str:
        """Return the generation of an object."""
        with self.lock:
            return str(self.storage.get_file_obj(bucket, name)["generation"])

    def refusal(self, request: str) -> int | None:
        """Return the status with which a request is to be refused."""
        with self.lock:
            for entry in self._refused:
                pattern, status, times = entry
                if times != 0 and pattern.search(request):
                    entry[2] = times and times - 1
                    return int(status)
        return None

    @contextlib.contextmanager
    def counted(self, request: str) -> Iterator[None]:
        """Take note of a request while it is at work."""
        with self.lock:
            self.requests.append(request)
            self._in_flight += 1
            self.largest_in_flight = max(self.largest_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self.lock:
                self._in_flight -= 1


def _handler_class() -> type:
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.server import RequestHandler, Router

    class Handler(RequestHandler):
        server: StorageServer

        def _answer(self) -> None:
            request = f"{self.command} {self.path}"
            with self.server.counted(request):
                time.sleep(self.server.delay_seconds)
                if self.server.on_request is not None:
                    self.server.on_request(request)
                path = urlsplit(self.path).path
                if (status := self.server.refusal(request)) is not None:
                    self._send_json(status, {"error": {"code": status, "message": "refused"}})
                elif self.command == "GET" and (match := _LIST.fullmatch(path)):
                    self._list(unquote(match[1]))
                else:
                    with self.server.lock:
                        Router(self).handle(self.command)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815

        def _list(self, bucket: str) -> None:
            query = {
                name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()
            }
            try:
                with self.server.lock:
                    items, prefixes = self.storage.get_file_list(
                        bucket, query.get("prefix"), query.get("delimiter"), query.get("matchGlob")
                    )
            except NotFound:
                self._send_json(404, {"error": {"code": 404, "message": "no such bucket"}})
                return
            start = int(query.get("pageToken", 0))
            end = start + min(int(query.get("maxResults", 1000)), self.server.page_size)
            answer: dict[str, Any] = {"items": items[start:end], "prefixes": prefixes}
            if end < len(items):
                answer["nextPageToken"] = str(end)
            fields = query.get("fields")
            if fields:
                asked = re.search(r"items\(([^)]*)\)", fields)
                names = asked[1].split(",") if asked else []
                answer = {key: value for key, value in answer.items() if key in fields}
                answer["items"] = [
                    {name: item[name] for name in names if name in item}
                    for item in answer.get("items", [])
                ]
            self._send_json(200, answer)

        def _send_json(self, status: int, answer: dict[str, Any]) -> None:
            # What is left unread would reset the connection before the client has the answer.
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def end_headers(self) -> None:
            if match := _DOWNLOAD.fullmatch(urlsplit(self.path).path):
                # The lock is held: the bytes and their generation belong together.
                with contextlib.suppress(NotFound, KeyError):
                    found = self.storage.get_file_obj(unquote(match[1]), unquote(match[2]))
                    self.send_header("X-Goog-Generation", str(found["generation"]))
            super().end_headers()

    return Handler


def upload(path: str | Path, uri: str) -> str:
    """Copy a file, or a folder with all that is below it; return the URI."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    path = Path(path)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            target = uri if file == path else f"{uri}/{file.relative_to(path).as_posix()}"
            with FileSystems.create(target, compression_type=CompressionTypes.UNCOMPRESSED) as copy:
                copy.write(file.read_bytes())
    return uri
