"""Fetch the archive of a model over HTTP, as TF Hub's protocol has it, and say what went wrong.

The protocol: https://www.tensorflow.org/hub/hosting. `tensorflow_hub` itself knows no time-out,
does not try again, and takes a web page for an archive.
"""

import http.client
import logging
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transforms.errors import UnusableModel
from transforms.models.model_handles import HubAddress
from transforms.models.safe_archive import is_archive
from transforms.workers.worker_log import log_event, without_queries

#: Written where TFHUB_DOWNLOAD_PROGRESS is set; else a line is logged every 15 seconds.
_PROGRESS_VARIABLE = "TFHUB_DOWNLOAD_PROGRESS"

_CHUNK = 1 << 18
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how much to take from it."""

    attempts: int = 4
    time_out: float = 30.0
    """Seconds without a byte."""
    first_pause: float = 0.5
    """Seconds before the second attempt; doubled before each further one."""
    max_bytes: int = 8 << 30


class _Interrupted(Exception):
    """This attempt failed in a way that the next may not."""


def download_archive(address: HubAddress, file: Path, patience: Patience | None = None) -> None:
    """Write the .tar.gz of the model at `address` to `file`.

    Redirects are followed, proxies are taken from the environment (http_proxy, https_proxy,
    no_proxy). What is cut or refused for the moment is tried again, from where it was cut if
    the server can do so.

    Raises:
        UnusableModel: there is no archive to be had; the message says why and what to try.
        OSError: the file cannot be written.
    """
    patience = patience or Patience()
    url = address.url
    if not is_archive(urlsplit(url).path):
        url = _with_format(url, "compressed")
    part = _Part(file, _Progress(address.url))
    pause = patience.first_pause
    for attempt in range(1, patience.attempts + 1):
        try:
            _fetch_rest(address, url, part, patience)
            part.progress.finish(part.received)
            return
        except _Interrupted as problem:
            if attempt == patience.attempts:
                raise UnusableModel(
                    f"{address.url} cannot be downloaded: {problem}, {attempt} times; check the "
                    f"network (a proxy is taken from https_proxy) and the address, {_elsewhere()}"
                ) from problem.__cause__
            log_event(
                logging.WARNING,
                "model-download-retried",
                model=without_queries(address.url),
                problem=without_queries(str(problem)),
                after_seconds=round(pause, 1),
            )
        time.sleep(pause)
        pause *= 2


def uncompressed_location(address: HubAddress, patience: Patience | None = None) -> str:
    """Return the gs:// folder to which the server sends those who want no archive.

    Raises:
        UnusableModel: the server does not answer with one.
    """
    patience = patience or Patience()
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        response = opener.open(_with_format(address.url, "uncompressed"), timeout=patience.time_out)
        status, location = response.status, ""
        response.close()
    except urllib.error.HTTPError as error:
        if error.code >= 400:
            raise _refusal(address, error) from error
        status = error.code
        location = error.read(4096).decode("utf-8", "replace").strip()
        if not location.startswith("gs://"):
            location = error.headers.get("Location", "")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnusableModel(
            f"{address.url} cannot be looked up: {_reason(error)}; check the network and the "
            f"address, {_elsewhere()}"
        ) from error
    if status != 303 or not location.startswith("gs://"):
        raise UnusableModel(
            f"{address.url} was answered with {status} and no gs:// address, so it cannot be read "
            "uncompressed; unset TFHUB_MODEL_LOAD_FORMAT, or set it to COMPRESSED"
        )
    return location


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Part:
    """What has been received so far."""

    def __init__(self, file: Path, progress: "_Progress") -> None:
        self.file, self.progress = file, progress
        self.received = 0
        self.tag: str | None = None
        """What the server calls this very content, so that a later part belongs to it."""


def _fetch_rest(address: HubAddress, url: str, part: _Part, patience: Patience) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "embed-images"})
    if part.received and part.tag:
        request.add_header("Range", f"bytes={part.received}-")
        request.add_header("If-Range", part.tag)
    with _open(address, request, part, patience) as response:
        continues = response.status == 206 and _continues(response, part)
        if not continues:
            part.received, part.tag = 0, _strong_tag(response)
        expected = _expected_bytes(response, part)
        with open(part.file, "ab" if continues else "wb") as file:
            while chunk := _read_chunk(response):
                if not part.received:
                    _refuse_pages(address, response, chunk)
                part.received += len(chunk)
                if max(part.received, expected or 0) > patience.max_bytes:
                    raise UnusableModel(
                        f"{address.url} sends more than {patience.max_bytes} bytes, which is "
                        "larger than any image model; check the address"
                    )
                file.write(chunk)
                part.progress.show(part.received)
    if expected is not None and part.received < expected:
        raise _Interrupted(f"the connection was cut after {part.received} of {expected} bytes")
    if not part.received:
        raise _Interrupted("the answer is empty")


def _open(
    address: HubAddress, request: urllib.request.Request, part: _Part, patience: Patience
) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=patience.time_out)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.tag = None  # The rest is not to be had; begin anew.
            raise _Interrupted("the server cannot go on where it stopped") from error
        if error.code in _TRY_AGAIN:
            raise _Interrupted(f"the answer is {error.code} {error.reason}") from error
        raise _refusal(address, error) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise UnusableModel(f"{address.url} is no valid address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UnusableModel(
                f"the certificate of {address.url} is not trusted: {reason.verify_message}; "
                "behind a proxy that looks into connections, set SSL_CERT_FILE to its certificate"
            ) from error
        raise _Interrupted(_reason(error)) from error


def _read_chunk(response: Any) -> bytes:
    try:
        chunk: bytes = response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error
    return chunk


def _continues(response: Any, part: _Part) -> bool:
    start = str(response.headers.get("Content-Range", "")).partition("-")[0]
    return start.removeprefix("bytes").strip() == str(part.received)


def _strong_tag(response: Any) -> str | None:
    tag = response.headers.get("ETag")
    return None if tag is None or tag.startswith("W/") else tag


def _expected_bytes(response: Any, part: _Part) -> int | None:
    length = response.headers.get("Content-Length", "")
    return part.received + int(length) if length.isdigit() else None


def _refuse_pages(address: HubAddress, response: Any, start: bytes) -> None:
    kind = response.headers.get_content_type()
    if (kind == "text/html" and start[:2] != b"\x1f\x8b") or start.lstrip()[:1] == b"<":
        raise UnusableModel(
            f"{address.url} is answered with a web page and not with an archive, perhaps to log "
            f"in (it came from {urlsplit(response.url).netloc}); {_what_to_try(address)}"
        )
    if start[:1] == b"{" or start[:4] == b"PK\x03\x04":
        found = "JSON" if start[:1] == b"{" else "a zip file"
        raise UnusableModel(
            f"{address.url} is answered with {found}, not with a .tar.gz; check that the address "
            f"names one version of a TensorFlow model; {_what_to_try(address)}"
        )


def _refusal(address: HubAddress, error: urllib.error.HTTPError) -> UnusableModel:
    answer = f"{error.code} {error.reason}".strip()
    if error.code in (404, 410):
        return UnusableModel(
            f"there is no model at {address.url} (the answer is {answer}); check the spelling and "
            f"the version, such as /4, at its end; {_what_to_try(address)}"
        )
    if error.code in (401, 403):
        return UnusableModel(
            f"{address.url} may not be read from here (the answer is {answer}); "
            f"{_what_to_try(address)}"
        )
    return UnusableModel(f"{address.url} was answered with {answer}; {_what_to_try(address)}")


def _what_to_try(address: HubAddress) -> str:
    mirror = (
        f"try {address.mirror}, which is said to be the same model"
        if address.mirror
        else "look whether kaggle.com/models or tfhub.dev has the same model"
    )
    name = address.kagglehub_handle or address.mirror
    on_kaggle = name and not name.startswith("https://")
    token = (
        f", or fetch it with a Kaggle token by kagglehub.model_download({name!r}) and give the "
        "folder that it returns"
        if on_kaggle
        else ""
    )
    return f"{mirror}{token}, {_elsewhere()}"


def _elsewhere() -> str:
    return (
        "or run `embed-images stage-model` on a machine that can read it, and give the folder "
        "that it makes"
    )


def _reason(error: BaseException) -> str:
    """Return one line that says what happened to a connection."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "the server was silent for too long"
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection was cut"
    return " ".join(str(inner).split()) or type(inner).__name__


def _with_format(url: str, load_format: str) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}tf-hub-format={load_format}"


class _Progress:
    """Says now and then how much has arrived, as tensorflow_hub does."""

    def __init__(self, url: str) -> None:
        self._url = without_queries(url)
        self._wanted = bool(os.environ.get(_PROGRESS_VARIABLE))
        self._said_at = time.monotonic()

    def show(self, received: int) -> None:
        if time.monotonic() - self._said_at < (0.2 if self._wanted else 15):
            return
        self._said_at = time.monotonic()
        self._say("downloading", received)

    def finish(self, received: int) -> None:
        self._say("downloaded", received, end="\n")

    def _say(self, what: str, received: int, end: str = "") -> None:
        megabytes = round(received / 1e6, 1)
        if self._wanted:
            # tensorflow_hub writes to standard output, which may be a file with our answer.
            stream = sys.stdout if sys.stdout.isatty() else sys.stderr
            stream.write(f"\r{what} {self._url}: {megabytes:.1f} MB{end}")
            stream.flush()
        else:
            log_event(logging.INFO, f"model-{what}", model=self._url, megabytes=megabytes)
