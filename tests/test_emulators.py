import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import bigquery_emulator as emulator
import pytest
from bigquery_emulator import bigquery_emulator

SUPPORT = Path(__file__).parent / "support"

PARENT = """
import sys, time
from bigquery_emulator import bigquery_emulator
with bigquery_emulator() as warehouse:
    print(warehouse.host, flush=True)
    time.sleep(60)
"""


def answers(host: str) -> bool:
    try:
        with urllib.request.urlopen(f"{host}/test/jobs", timeout=5):
            return True
    except OSError:
        return False


def test_the_emulator_ends_with_a_process_that_is_killed() -> None:
    with bigquery_emulator():
        pass  # Else this test is skipped, or fails in CI.
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    host = parent.stdout.readline().strip()
    assert answers(host)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while answers(host):
        assert time.monotonic() < deadline, f"the emulator at {host} outlives its parent"
        time.sleep(0.1)


def test_each_test_has_a_dataset_and_a_bucket_of_its_own() -> None:
    with bigquery_emulator() as first:
        first.query("CREATE TABLE t (x INT64)")
        first.storage.put("a", b"a", bucket=first.bucket.removeprefix("gs://"))
    with bigquery_emulator() as second:
        assert list(second.client().list_tables(second.dataset)) == []
    assert first.host == second.host
    assert first.bucket != second.bucket


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail), ("", pytest.skip)])
def test_without_the_emulator_a_test_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: Any
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(emulator, "ENVIRONMENT", tmp_path)
    with pytest.raises(outcome.Exception, match="run `make emulators`"), bigquery_emulator():
        pass
