"""Runs that are killed at any moment, or overlap: every image ends in folder and table once."""

import contextlib
import os
import random
import re
import signal
import threading
import time

import pytest
from bigquery_emulator import bigquery_emulator
from components import require
from incremental_folders import assert_every_image_once
from nights import (
    BucketOfImages,
    Nights,
    assert_each_once,
    assert_folder_and_table_agree,
    assert_holds,
    counts_of,
    put_many,
    report_of,
    rows_of,
    tiny_png,
)
from table_runs import tables
from tiny_models import save_tiny_model

from transforms.ledgers.incremental_runs import complete_runs, heads
from transforms.search.read_embeddings import read_embeddings

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

IMAGES = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), image_height=8, image_width=8)


@pytest.fixture
def warehouse():
    with bigquery_emulator() as warehouse:
        yield warehouse


@pytest.fixture
def images(warehouse):
    images = BucketOfImages(warehouse)
    put_many(images, IMAGES)
    return images


@pytest.fixture
def nights(warehouse, images, model):
    return Nights(
        (images.location,),
        model,
        folder=f"{warehouse.bucket}/out",
        table=warehouse.table("photos"),
        temp_location=f"{warehouse.bucket}/temp",
    )


@contextlib.contextmanager
def started(command):
    """Whatever happens, nothing of the process is left."""
    process = command()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def finish(process, seconds=120):
    """Wait for the end of a run; return what it said."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said.decode()


def kill_at(nights, warehouse, request):
    """Run the command, and kill it before the answer to a request to Cloud Storage or BigQuery.

    Args:
        request: the number of a request to Cloud Storage, or a pattern in the id of a job.
    """
    reached = threading.Event()
    with started(nights.start) as process:

        def count(_):
            if len(warehouse.storage.requests) - before >= request:
                kill()

        def kill():
            if not reached.is_set():
                reached.set()
                process.send_signal(signal.SIGKILL)

        before = len(warehouse.storage.requests)
        jobs_before = len(warehouse.jobs())
        if isinstance(request, int):
            warehouse.storage.on_request = count
        try:
            while process.poll() is None:
                if isinstance(request, str):
                    new = warehouse.jobs()[jobs_before:]
                    ids = [job["jobReference"]["jobId"] for job in new]
                    if any(re.search(request, each) for each in ids):
                        kill()
                time.sleep(0.05)
        finally:
            warehouse.storage.on_request = None
        _, said = finish(process)
    assert reached.is_set(), f"the run was over before {request}:\n{said}"
    assert process.returncode == -signal.SIGKILL
    # A worker that went on behind its launcher could write into the output at any time.
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def survive(nights, warehouse, images, moments):
    """Kill one run after the other; then let one come to its end, and look at what is there."""
    contents = first_contents()
    for number, moment in enumerate(moments):
        kill_at(nights, warehouse, moment)
        assert_no_image_twice(nights, warehouse)
        # The next run has something to replace and something to add.
        change_some(images, contents, [number])
    nights.run()
    assert_complete(nights, warehouse, images, contents)


def first_contents():
    return {f"{number:04d}.png": tiny_png(number) for number in range(IMAGES)}


def change_some(images, contents, numbers):
    """Change an image of each of the numbers, and add one."""
    for number in numbers:
        contents[f"{number:04d}.png"] = tiny_png(1000 + number)
        contents[f"new{number}.png"] = tiny_png(2000 + number)
        for name in (f"{number:04d}.png", f"new{number}.png"):
            images.put(name, contents[name])


def assert_no_image_twice(nights, warehouse):
    if "photos" in tables(warehouse):
        assert_each_once(rows_of(warehouse, nights.table))
    if complete_runs(nights.folder):
        assert_every_image_once(nights.folder)


def assert_complete(nights, warehouse, images, contents):
    """Folder and table hold each image once, as it is now, and the next run has nothing to do."""
    rows = rows_of(warehouse, nights.table)
    assert_each_once(rows)
    assert_every_image_once(nights.folder)
    by_uri = {f"{images.location}/{name}": content for name, content in contents.items()}
    assert_holds(read_embeddings(nights.folder), by_uri, nights.model)
    assert_folder_and_table_agree(nights.folder, rows)
    count = len(contents)
    assert counts_of(nights.run()) == {"found": count, "skipped": count}
    assert len(heads(complete_runs(nights.folder))) == 1
    assert_every_image_once(nights.folder)
    assert rows_of(warehouse, nights.table) == rows


def test_killed_three_times(warehouse, images, nights):
    """While images are read, between the load and the merge, and between merge and _SUCCESS."""
    survive(nights, warehouse, images, [40, "_load_", "_record_complete_"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments(warehouse, images, nights):
    before = len(warehouse.storage.requests)
    nights.to(f"{warehouse.bucket}/measured", warehouse.table("measured")).run()
    requests_of_a_run = len(warehouse.storage.requests) - before
    seeded = random.Random(20261120)
    moments = [seeded.randint(1, requests_of_a_run) for _ in range(10)]
    survive(nights, warehouse, images, moments)


def test_two_runs_at_the_same_time(warehouse, images, nights):
    nights.run()
    contents = first_contents()
    change_some(images, contents, range(5))
    both_began = threading.Event()

    def wait_for_the_other(request):
        if "/download/" in request and "/photos" in request:
            both_began.wait(60)

    warehouse.storage.on_request = wait_for_the_other
    with started(nights.start) as first, started(nights.start) as second:
        while len(nights.run_folders()) < 3 and first.poll() is None and second.poll() is None:
            time.sleep(0.1)
        both_began.set()
        endings = [finish(first), finish(second)]
    warehouse.storage.on_request = None
    assert [status for status, _ in endings] == [0, 0], endings
    reports = [report_of(folder) for folder in nights.run_folders()[1:]]
    assert [counts_of(report) for report in reports] == [
        {"found": IMAGES + 5, "skipped": IMAGES - 5, "embedded": 10}
    ] * 2
    assert len(heads(complete_runs(nights.folder))) == 2, "they did not overlap"
    assert_complete(nights, warehouse, images, contents)
    # Nothing is left of the staging.
    assert tables(warehouse) == {"photos", "photos_runs"}
