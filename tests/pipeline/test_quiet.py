import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.quiet import quiet_libraries

ROOT = Path(__file__).parents[2]

NOISY = """
import logging, os, sys
from pipeline.quiet import quiet_libraries

with quiet_libraries(verbose={verbose}) as console:
    os.write(2, b"noise of a C library\\n")
    print("noise of print", file=sys.stderr)
    logging.getLogger("apache_beam").info("noise of a logger")
    console.say("ours")
    if console.log_path:
        print(open(console.log_path).read(), end="")
        os.remove(console.log_path)
print("afterwards", file=sys.stderr)
"""


def run(verbose):
    return subprocess.run(
        [sys.executable, "-c", NOISY.format(verbose=verbose)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def test_only_our_own_lines_reach_the_console_and_the_rest_is_in_the_log():
    finished = run(verbose=False)
    assert finished.stderr == "embed-images: ours\nafterwards\n"
    for noise in ("noise of a C library", "noise of print", "noise of a logger"):
        assert noise in finished.stdout


def test_verbose_brings_the_noise_back():
    finished = run(verbose=True)
    for line in ("noise of a C library", "noise of print", "noise of a logger", "ours"):
        assert line in finished.stderr


def test_everything_is_as_it_was_afterwards_also_after_an_error(capfd):
    level, handlers, stream = logging.getLogger().level, logging.getLogger().handlers[:], sys.stderr
    with contextlib.suppress(ZeroDivisionError), quiet_libraries(verbose=False) as console:
        os.remove(console.log_path)
        raise ZeroDivisionError
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    assert sys.stderr is stream
    os.write(2, b"still here\n")
    assert "still here" in capfd.readouterr().err


def test_a_log_that_cannot_be_written_disturbs_nobody():
    """A full disk would otherwise end the thread of Beam that logs, and the job would hang."""
    script = """
import logging, os, sys
from pipeline.quiet import quiet_libraries

with quiet_libraries(verbose=False) as console:
    os.dup2(os.open("/dev/full", os.O_WRONLY), sys.stderr.fileno())
    logging.getLogger("apache_beam").error("lost")
    print("lost", file=sys.stderr, flush=True)
    console.say("ours")
    os.remove(console.log_path)
"""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stderr == "embed-images: ours\n"


ANSWER = """
import sys
from pipeline.quiet import print_answer

print_answer("x" * {length})
print("and on it goes", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("length", [1, 100_000])
def test_an_answer_that_nobody_reads_to_its_end_is_no_error(length, unbuffered):
    unread, answer = os.pipe()
    os.close(unread)
    finished = subprocess.run(
        [sys.executable, "-c", ANSWER.format(length=length)],
        cwd=ROOT,
        stdout=answer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
        check=False,
    )
    os.close(answer)
    assert (finished.returncode, finished.stderr) == (0, "and on it goes\n")


def test_an_answer_that_cannot_be_written_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [sys.executable, "-c", ANSWER.format(length=1)],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            text=True,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "OSError: [Errno 28] No space left on device"


def test_the_command_runs_with_a_closed_standard_error():
    command = f"exec {sys.executable} -m pipeline run --input /nowhere --output /never 2>&-"
    finished = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, check=False
    )
    assert finished.returncode == 2
