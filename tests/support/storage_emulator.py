"""Cloud Storage on loopback, for tests of gs:// paths."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

#: The bucket that the emulator starts with.
BUCKET = "test-bucket"


@contextlib.contextmanager
def storage_emulator(folder: Path) -> Iterator[str]:
    """Run the emulator, with its objects below `folder`; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = (
        "import sys; from gcp_storage_emulator.__main__ import main; "
        f"sys.exit(main(['-d', {str(folder)!r}, 'start', '--host', '127.0.0.1', "
        f"'--port', '{port}', '--default-bucket', {BUCKET!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None, "the storage emulator ended"
            assert time.monotonic() < deadline, "the storage emulator does not answer"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
