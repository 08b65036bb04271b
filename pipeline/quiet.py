"""Keep what the libraries print and log apart from our own lines.

TensorFlow, libtiff and CUDA write to the file descriptor of standard error, whatever Python's
logging says, and Beam prints the whole stack of every failed bundle. All of it goes into a log
file; our own lines go to the console.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Console:
    """Where our own lines go, and where everything else went."""

    stream: TextIO
    log_path: str | None
    """None where everything goes to the stream."""

    def say(self, line: str) -> None:
        """Write one line of ours."""
        print(f"embed-images: {line}", file=self.stream, flush=True)


def print_answer(text: str) -> None:
    """Print to standard output what the command was asked for.

    Whoever reads it may have had enough of it: head, say. That is no error.

    Raises:
        OSError: it cannot be written, because a disk is full, say.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer would fail once more at the end of the process, whose status
        # would then be 120 (https://docs.python.org/3/library/signal.html#note-on-sigpipe).
        descriptor = _descriptor_of(sys.stdout)
        if descriptor is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            raise


@contextlib.contextmanager
def quiet_libraries(verbose: bool) -> Iterator[Console]:
    """Send what the libraries write to standard error into a log file, unless `verbose`.

    The file is left behind for whoever looks into a failed job: remove it where all went well.
    Enter it before TensorFlow and Beam are imported.
    """
    if verbose:
        with _logging_to(sys.stderr):
            yield Console(sys.stderr, None)
        return
    sys.stderr.flush()
    console_descriptor = os.dup(2)
    python_stderr = sys.stderr
    # Under a test or in a notebook, Python's standard error is not the process's.
    replaced = _descriptor_of(python_stderr) != 2
    stream = python_stderr if replaced else os.fdopen(console_descriptor, "w", buffering=1)
    log_descriptor, log_path = tempfile.mkstemp(prefix="embed-images-", suffix=".log")
    with contextlib.closing(_LogFile(log_descriptor)) as log:
        os.dup2(log_descriptor, 2)
        sys.stderr = log
        try:
            with _logging_to(log):
                yield Console(stream, log_path)
        finally:
            sys.stderr = python_stderr
            os.dup2(console_descriptor, 2)
            if replaced:
                os.close(console_descriptor)
            else:
                stream.close()


class _LogFile(io.TextIOBase):
    """A log that a full disk makes incomplete, and nothing worse.

    An error of the log would end whichever thread of Beam has something to say, and Beam would
    wait for it for ever.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        super().close()


@contextlib.contextmanager
def _logging_to(stream: TextIO | io.TextIOBase) -> Iterator[None]:
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError, ValueError):
        return None
