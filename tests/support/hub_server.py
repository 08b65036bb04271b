"""What servers of TF Hub's protocol answer, rightly and wrongly; for `http_server`."""

import io
import itertools
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from http_server import Answer, Request

COMPRESSED = "tf-hub-format=compressed"
UNCOMPRESSED = "tf-hub-format=uncompressed"


def packed(folder: str | Path, inner: str = ".") -> bytes:
    """Return a .tar.gz of the folder, whose files lie in `inner`."""
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w:gz") as archive:
        archive.add(folder, inner)
    return result.getvalue()


def model(content: bytes, tag: str | None = None) -> Answer:
    """The archive, for who asks for the compressed form; parts of it if it has an ETag."""

    def answer(request: Request) -> None:
        if COMPRESSED not in request.path:
            request.reply(b"no such format", status=404)
        elif tag and request.headers["If-Range"] == tag:
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            stated = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.reply(content[start:], status=206, Content_Range=stated, ETag=tag)
        else:
            request.reply(content, ETag=tag)

    return answer


def cut(content: bytes, after: int, tag: str | None = None) -> Answer:
    """A connection that ends after so many bytes."""
    return lambda request: request.reply(content[:after], Content_Length=len(content), ETag=tag)


def cut_in_a_chunk(content: bytes, after: int) -> Answer:
    """A connection that ends within a chunk, of an answer that does not state its length."""
    start = f"{len(content):x}\r\n".encode() + content[:after]
    return lambda request: request.reply(start, Content_Length=None, Transfer_Encoding="chunked")


def refused(status: int) -> Answer:
    return lambda request: request.reply(b"", status=status)


def redirect(location: str, status: int = 302) -> Answer:
    return lambda request: request.reply(b"", status=status, Location=location)


def uncompressed(location: str) -> Answer:
    """A 303 whose body is the folder on gs://, for who asks for the uncompressed form."""

    def answer(request: Request) -> None:
        found = UNCOMPRESSED in request.path
        request.reply(location.encode() if found else b"", status=303 if found else 404)

    return answer


def silent(seconds: float) -> Answer:
    return lambda request: time.sleep(seconds)


def slow(content: bytes, seconds: float) -> Answer:
    """The archive in ten parts."""
    size = len(content) // 10 + 1

    def answer(request: Request) -> None:
        BaseHTTPRequestHandler.send_response(request, 200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        for start in range(0, len(content), size):
            time.sleep(seconds / 10)
            request.wfile.write(content[start : start + size])

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Each of the answers once, the last for ever."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    lock = threading.Lock()

    def answer(request: Request) -> None:
        with lock:
            chosen = next(turns)
        chosen(request)

    return answer
