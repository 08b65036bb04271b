"""A real HTTP server on loopback whose every answer a test decides."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One GET; the answer of its path is called with it."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.requests.append(self.path)
            self.server.hosts.append(self.headers["Host"])
        self.close_connection = True
        answer = self.server.answers.get(path)
        if answer is None:
            self.reply(b"", status=404)
        else:
            answer(self)

    def reply(self, content: bytes, status: int = 200, **headers: object) -> None:
        """Send a whole answer; `Content-Length` is right unless it is among the headers."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **names}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def drip(self) -> None:
        """Send a byte now and then, for ever."""
        while True:
            self.wfile.write(b"a")
            time.sleep(0.05)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Answers, and what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.hosts: list[str] = []
        self.lock = threading.Lock()
        self.scheme = "http"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def serve(self, path: str, content: bytes, **options: Any) -> str:
        """Answer the path with the content, and return its URL."""
        self.answers[path] = lambda request: request.reply(content, **options)
        return self.url(path)


@contextmanager
def running_server(tls: SSLContext | None = None) -> Iterator[Server]:
    """A server that answers until the block ends."""
    server = Server()
    if tls is not None:
        server.scheme = "https"
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
