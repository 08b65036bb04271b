"""The same job on every engine that can run here: same vectors, same counts, each image once.

The reference is Beam's local engine in memory. Flink and Spark are real ones, each in one process
with Beam's job server for it.
"""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from http_server import running_server
from incremental_folders import assert_every_image_once
from job_servers import java_job_server, local_job_server, worker_pool
from sample_images import jpeg_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.folders.output_folder import run_folder
from transforms.ledgers.incremental_runs import complete_runs
from transforms.search.read_embeddings import read_embeddings

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = 60
COUNTS = {"found": 60, "skipped": 0, "embedded": 59, "failed": 1, "gone": 0, "pruned": 0}

pytestmark = [
    # A run waits for others here, too: for a Java that starts, and for workers' TensorFlow.
    pytest.mark.timeout(600),
    # Beam's workers in this process end their connections that way.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), embedding_width=8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """56 photographs, 3 twins of some of them, and a file that is none."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(PHOTOGRAPHS - 4):
        (folder / f"{number:02d}.jpg").write_bytes(jpeg_bytes(80 + number, 60, seed=number))
    for number in range(3):
        (folder / f"twin{number}.jpg").write_bytes((folder / f"{number:02d}.jpg").read_bytes())
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    return folder


@pytest.fixture(scope="module")
def reference(photographs, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "out"
    assert run(photographs, model, output, "--direct_running_mode=in_memory") == 0
    return output


@pytest.fixture(scope="module")
def flink():
    with java_job_server("flink") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def spark():
    with java_job_server("spark") as endpoint:
        yield endpoint


def run(photographs, model, output, *flags):
    request = ["--input", photographs, "--output", output, "--model", model]
    formats = ["--set", "output.formats=[tfrecord,parquet]", "--set", "output.shards=2"]
    return main(["run", *map(str, [*request, *formats, *flags])])


def on(engine, endpoint):
    """The flags of a run on Flink or Spark as users are told to run it."""
    return ("--config", ROOT / "configs" / f"{engine}.yaml", f"--job_endpoint={endpoint}")


def report_of(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def dead_letters(folder):
    lines = [
        json.loads(line)
        for path in sorted((Path(folder) / "dead_letters").iterdir())
        for line in path.read_text().splitlines()
    ]
    for line in lines:
        line.pop("failed_at")
    return sorted(lines, key=lambda line: line["uri"])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same(output, reference):
    """Both are complete, and hold the same rows, dead letters and files, each once."""
    assert names(output) == names(reference)
    assert report_of(output)["counts"] == report_of(reference)["counts"]
    assert dead_letters(output) == dead_letters(reference)
    found, expected = read_embeddings(str(output)), read_embeddings(str(reference))
    assert sorted(found.uris) == sorted(expected.uris)
    assert len(set(found.uris)) == len(found.uris)
    assert_same_rows(found, expected)


def assert_same_rows(found, expected):
    place = {uri: row for row, uri in enumerate(expected.uris)}
    rows = [place[uri] for uri in found.uris]
    assert found.sha256 == [expected.sha256[row] for row in rows]
    # A batch of another size may give other last bits.
    np.testing.assert_allclose(found.vectors, expected.vectors[rows], rtol=0, atol=1e-6)


def test_the_reference_is_what_the_photographs_ask_for(reference):
    assert (
        report_of(reference)["counts"].items()
        >= {key: COUNTS[key] for key in ("found", "embedded", "failed")}.items()
    )
    table = read_embeddings(str(reference))
    assert len(set(table.uris)) == 59
    vectors = {
        Path(uri).name: vector for uri, vector in zip(table.uris, table.vectors, strict=True)
    }
    np.testing.assert_array_equal(vectors["twin1.jpg"], vectors["01.jpg"])
    assert np.abs(vectors["00.jpg"] - vectors["01.jpg"]).max() > 1e-3


def test_worker_processes_of_the_local_engine(photographs, model, reference, tmp_path):
    flags = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run(photographs, model, tmp_path / "out", *flags) == 0
    assert_same(tmp_path / "out", reference)


def test_the_local_job_service_with_several_workers(
    photographs, model, reference, tmp_path, capsys
):
    """Its engine flushes by time, which can lose elements: such a run fails, and is run again."""
    output = tmp_path / "out"
    with local_job_server() as endpoint:
        flags = (
            *("--runner=PortableRunner", f"--job_endpoint={endpoint}"),
            *("--environment_type=LOOPBACK", "--direct_num_workers=3"),
        )
        for _ in range(3):
            if run(photographs, model, output, *flags) == 0:
                break
            assert "IncompleteRun" in capsys.readouterr().err
            assert not (output / "_SUCCESS").exists()
    assert_same(output, reference)


def test_spark(photographs, model, reference, spark, tmp_path, capsys):
    assert run(photographs, model, tmp_path / "out", *on("spark", spark)) == 0
    assert_same(tmp_path / "out", reference)
    assert "embedded   59" in capsys.readouterr().out


def test_flink_and_an_incremental_run_behind_it_that_finds_nothing_new(
    photographs, model, reference, flink, tmp_path
):
    output = tmp_path / "out"
    flags = (*on("flink", flink), "--incremental")
    assert run(photographs, model, output, *flags) == 0
    first = assert_every_image_once(output)
    expected = read_embeddings(str(reference))
    assert_same_rows(read_embeddings(str(output)), expected)
    assert len(first) == 59

    # What failed is tried again; nothing else is.
    assert run(photographs, model, output, *flags) == 0
    again = assert_every_image_once(output)
    assert again.keys() == first.keys()
    one, two = (
        report_of(run_folder(str(output), name)) for name in sorted(complete_runs(str(output)))
    )
    assert one["counts"] == COUNTS
    assert two["counts"] == {**COUNTS, "skipped": 59, "embedded": 0}


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_workers_of_a_pool_give_what_the_local_engine_gives(
    engine, photographs, model, reference, tmp_path, request
):
    endpoint = request.getfixturevalue(engine)
    with worker_pool() as pool:
        flags = (
            *on(engine, endpoint),
            *("--environment_type=EXTERNAL", f"--environment_config={pool.address}"),
        )
        assert run(photographs, model, tmp_path / "out", *flags) == 0
    assert_same(tmp_path / "out", reference)


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_a_worker_of_a_pool_is_killed_and_the_outputs_are_exact_in_the_end(
    engine, photographs, model, reference, tmp_path, request, capsys
):
    """The worker dies while it reads an image: its server asks for that."""
    endpoint = request.getfixturevalue(engine)
    output, listing = tmp_path / "out", tmp_path / "list.txt"
    killed = []
    with running_server() as server, worker_pool() as pool:

        def answer(request):
            workers = pool.workers()
            if workers and not killed:
                killed.extend(workers)
                for worker in workers:
                    os.kill(worker, signal.SIGKILL)
            request.reply((photographs / "07.jpg").read_bytes())

        server.answers["/last.jpg"] = answer
        listing.write_text(server.url("/last.jpg") + "\n")
        flags = (
            *("--input", f"@{listing}", "--set", "input.allow_private_addresses=true"),
            *on(engine, endpoint),
            *("--environment_type=EXTERNAL", f"--environment_config={pool.address}"),
        )
        status = run(photographs, model, output, *flags)
        assert killed
        if engine == "flink":
            # It waits for longer than a dead worker is kept in mind (docs/engines.md).
            assert status == 0
        elif status == 1:
            assert not (output / "_SUCCESS").exists()
            with pytest.raises(FileNotFoundError):
                read_embeddings(str(output))
            assert re.search(r"CANCELLED|UNAVAILABLE|closed", capsys.readouterr().err)
            status = run(photographs, model, output, *flags)
        assert status == 0
    assert names(output) == names(reference)
    assert (
        report_of(output)["counts"].items()
        >= {
            "found": 61,
            "embedded": 60,
            "failed": 1,
        }.items()
    )
    assert dead_letters(output) == dead_letters(reference)
    found, expected = read_embeddings(str(output)), read_embeddings(str(reference))
    rows = {uri: row for row, uri in enumerate(found.uris)}
    assert len(rows) == len(found.uris) == 60
    for uri, vector in zip(expected.uris, expected.vectors, strict=True):
        np.testing.assert_allclose(found.vectors[rows[uri]], vector, rtol=0, atol=1e-6)
    by_http = found.vectors[rows[server.url("/last.jpg")]]
    as_file = found.vectors[rows[str(photographs / "07.jpg")]]
    np.testing.assert_allclose(by_http, as_file, rtol=0, atol=1e-6)
