"""A Cloud Storage on loopback, in this process."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

BUCKET = "models"


@contextlib.contextmanager
def storage_emulator() -> Iterator[str]:
    """Point the process at an empty emulator until the block ends; give gs:// of a bucket."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = f"http://127.0.0.1:{port}"
    with (
        create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET),
        mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST=host),
    ):
        yield f"gs://{BUCKET}"


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
