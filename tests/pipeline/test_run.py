"""The command itself, from its arguments to its files, with a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_images import corrupt_images, jpeg_bytes, natural_image, png_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.hub_model import HubImageModel
from transforms.image_codec import decode_image
from transforms.model_description import describe_model
from transforms.records import Preprocessing
from transforms.tf_example import read_embeddings

ROOT = Path(__file__).parents[2]
WIDTH = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), embedding_width=WIDTH)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """100 files of a folder, 5 of them corrupt."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(95):
        below = folder / f"album{number % 3}"
        below.mkdir(exist_ok=True)
        content = jpeg_bytes(80 + number, 60, seed=number)
        (below / f"{number:02d}.jpg").write_bytes(content)
    for name, content in list(corrupt_images().items())[:5]:
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def run(*arguments):
    return main(["run", *map(str, arguments)])


def dead_letters(output):
    (path,) = (output / "dead_letters").iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(output):
    return json.loads((output / "run.json").read_text())


def plain_loop(folder, model):
    """The vectors as a loop over the pure functions makes them, one image after the other."""
    network = HubImageModel.load(describe_model(model), height=32, width=32)
    vectors = {}
    for path in sorted(folder.rglob("*.jpg")):
        try:
            decoded = decode_image(path.read_bytes(), Preprocessing(height=32, width=32))
        except Exception:
            continue
        vectors[str(path)] = network.embed(decoded.pixels[None])[0]
    return vectors


@pytest.mark.parametrize(
    "flags",
    [[], ["--runner=DirectRunner", "--config", ROOT / "configs" / "local.yaml"]],
    ids=["default", "DirectRunner"],
)
def test_95_photographs_and_5_corrupt_files_end_as_95_vectors_and_5_dead_letters(
    photographs, model, tmp_path, capsys, flags
):
    output = tmp_path / "out"
    arguments = ["--input", photographs, "--output", output, "--model", model, *flags]
    assert run(*arguments) == 0

    table = read_embeddings(str(output))
    expected = plain_loop(photographs, model)
    assert table.vectors.shape == (95, WIDTH)
    assert table.vectors.dtype == np.float32
    assert sorted(table.uris) == sorted(expected)
    for uri, vector in zip(table.uris, table.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[uri], atol=1e-5)

    letters = dead_letters(output)
    assert len(letters) == 5
    assert {letter["stage"] for letter in letters} == {"DecodeImages"}
    report = report_of(output)
    assert report["status"] == "complete"
    assert report["counts"] == {"found": 100, "embedded": 95, "failed": 5}
    assert 0 < report["mean_batch_fill"] <= 1
    assert report["config"]["model"]["handle"] == model
    assert report["versions"]["apache-beam"]
    assert (output / "_SUCCESS").exists()
    assert (output / "schema.pbtxt").exists()

    captured = capsys.readouterr()
    assert "embedded   95" in captured.out
    assert "Traceback" not in captured.err

    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert run(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before

    assert run(*arguments, "--overwrite", "--set", "output.shards=4") == 0
    assert len(list(output.glob("embeddings-*-of-00004.tfrecord"))) == 4
    assert sorted(read_embeddings(str(output)).uris) == sorted(expected)


def test_every_step_that_can_fail_on_one_image_reaches_the_dead_letters(tmp_path):
    model = save_tiny_model(tmp_path / "model", fault="reject_red")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        (images / f"good{number}.png").write_bytes(png_bytes(seed=number))
    (images / "corrupt.png").write_bytes(b"not an image")
    (images / "gone.png").symlink_to(images / "nowhere.png")
    red = natural_image(40, 40).point(lambda value: 0)
    red.paste((255, 0, 0), (0, 0, 40, 40))
    red.save(images / "red.png")
    output = tmp_path / "out"
    assert (
        run(
            *("--input", images, "--output", output, "--model", model),
            *("--max-failure-ratio", "0.5", "--direct_num_workers=1"),
        )
        == 0
    )
    assert sorted(
        (Path(letter["uri"]).name, letter["stage"], letter["error"])
        for letter in dead_letters(output)
    ) == [
        ("corrupt.png", "DecodeImages", "UndecodableImage"),
        ("gone.png", "ReadImages", "ImageNotFound"),
        ("red.png", "EmbedImages", "RejectedImage"),
    ]
    assert len(read_embeddings(str(output)).uris) == 6


def test_more_failures_than_allowed_fail_the_job_and_name_the_reasons(
    photographs, model, tmp_path, capsys
):
    output = tmp_path / "out"
    arguments = ["--input", photographs, "--output", output, "--model", model]
    assert run(*arguments, "--max-failure-ratio", "0.04") == 1
    error = capsys.readouterr().err
    assert "5 of 100 images failed" in error
    assert "UndecodableImage" in error
    assert "Traceback" not in error
    assert not (output / "_SUCCESS").exists()
    assert report_of(output)["status"] == "failed"
    with pytest.raises(FileNotFoundError):
        read_embeddings(str(output))
    # What failed may be run again without --overwrite.
    assert run(*arguments) == 0
    assert len(read_embeddings(str(output)).uris) == 95


@pytest.mark.parametrize("fault", ["nan_always", "reject_all", "four_dimensional", "text"])
def test_a_model_that_fails_its_trial_is_refused_before_any_work(
    photographs, tmp_path, capsys, fault
):
    model = save_tiny_model(tmp_path / "model", fault=fault)
    output = tmp_path / "out"
    assert run("--input", photographs, "--output", output, "--model", model) == 2
    assert "embed-images: error:" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/embeddings*"))


def test_out_of_memory_costs_no_image(photographs, tmp_path):
    model = save_tiny_model(tmp_path / "model", fault="out_of_memory_above_4")
    output = tmp_path / "out"
    assert run("--input", photographs / "album0", "--output", output, "--model", model) == 0
    assert report_of(output)["counts"] == {"found": 32, "embedded": 32, "failed": 0}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--input", "{folder}/*.gif"], "nothing matched"),
        (["--input", "{folder}/missing"], "no file or folder"),
        (["--input", "@{folder}/missing.txt"], "missing.txt"),
        (["--model", "{folder}"], "saved_model.pb"),
        (["--model", "{folder}/missing"], "missing"),
        (["--set", "preprocess.size=[64,64]"], "64"),
        (["--output", "{folder}/a.jpg"], "a.jpg"),
        (["--output", "/proc/embeddings"], "/proc/embeddings"),
    ],
)
def test_a_wrong_request_ends_with_2_and_one_sentence(model, tmp_path, capsys, flags, sentence):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg_bytes())
    flags = [flag.format(folder=folder) for flag in flags]
    output = tmp_path / "out"
    defaults = {"--input": folder, "--output": output, "--model": model}
    arguments = [part for item in defaults.items() if item[0] not in flags for part in item]
    assert run(*arguments, *flags) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (output / "_SUCCESS").exists()


def test_an_empty_folder_is_a_wrong_request(model, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no image")
    arguments = ["--input", tmp_path, "--output", tmp_path / "out", "--model", model]
    assert run(*arguments) == 2
    assert "nothing matched" in capsys.readouterr().err


KILLED_WHILE_RENAMING = """
import os, signal, sys, threading
from apache_beam.io.localfilesystem import LocalFileSystem

real_rename = LocalFileSystem.rename
one_at_a_time = threading.Lock()
renamed = 0

def rename_some_and_die(self, sources, destinations):
    global renamed
    with one_at_a_time:
        for source, destination in zip(sources, destinations):
            if renamed == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            real_rename(self, [source], [destination])
            renamed += 1

LocalFileSystem.rename = rename_some_and_die
from pipeline.__main__ import main
main(sys.argv[1:])
"""


def test_killed_while_shards_are_renamed_and_run_again_every_image_is_there_once(
    photographs, model, tmp_path
):
    output = tmp_path / "out"
    arguments = ["run", "--input", str(photographs), "--output", str(output), "--model", model]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_RENAMING, *arguments, "--set", "output.shards=5"],
        cwd=ROOT,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert killed.returncode == -9
    left = [path.name for path in output.glob("embeddings-*")]
    assert len(left) == 2, "the kill has to leave some shards renamed and some not"
    assert not (output / "_SUCCESS").exists()

    assert main([*arguments, "--set", "output.shards=3"]) == 0
    uris = read_embeddings(str(output)).uris
    assert len(uris) == len(set(uris)) == 95
    assert len(list(output.glob("embeddings-*"))) == 3
    assert not list(output.glob("beam-temp-*"))


def test_a_launcher_that_does_not_wait_still_gets_a_complete_output(photographs, model, tmp_path):
    """The job server goes on with the graph, finish included, after the launcher is gone."""
    output = tmp_path / "out"
    port_file = tmp_path / "port"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"),
            *("--port", "0", "--port_file", str(port_file), "--staging_dir", str(tmp_path / "s")),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pool = None
    try:
        port = wait_for(lambda: port_file.exists() and port_file.read_text().strip())
        worker_port = free_port()
        pool = subprocess.Popen(
            [
                *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
                *("--service_port", str(worker_port)),
            ],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        launcher = subprocess.run(
            [
                *(sys.executable, "-m", "pipeline", "run", "--no-wait"),
                *("--input", str(photographs), "--output", str(output), "--model", model),
                *("--runner=PortableRunner", f"--job_endpoint=localhost:{port}"),
                *("--environment_type=EXTERNAL", f"--environment_config=localhost:{worker_port}"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert launcher.returncode == 0, launcher.stderr
        assert "submitted" in launcher.stderr
        wait_for(lambda: (output / "_SUCCESS").exists())
        assert len(read_embeddings(str(output)).uris) == 95
    finally:
        for process in (pool, server):
            if process is not None:
                os.killpg(process.pid, 9)
                process.wait()


def wait_for(condition, seconds=120):
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"it did not happen within {seconds} s")


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_real_mobilenet_finds_the_class_of_real_photographs(tmp_path):
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"the folder of real photographs and models is not at {data}")
    output = tmp_path / "out"
    model = data / "models" / "mobilenet_v1_feature_vector"
    assert run("--input", data / "photos", "--output", output, "--model", model) == 0
    table = read_embeddings(str(output))
    assert table.vectors.shape == (128, 1024)
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1)
    classes = np.array([Path(uri).parent.name for uri in table.uris])
    recall = (classes[similarity.argmax(axis=1)] == classes).mean()
    assert recall >= 0.79


def test_the_output_folder_keeps_what_is_not_ours(photographs, model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "README.txt").write_text("mine")
    shutil.copytree(photographs / "album0", output / "embeddings")
    arguments = ["--input", photographs / "album0", "--output", output, "--model", model]
    assert run(*arguments) == 0
    assert run(*arguments, "--overwrite") == 0
    assert (output / "README.txt").read_text() == "mine"
    assert len(list((output / "embeddings").iterdir())) == 32
