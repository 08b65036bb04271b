"""The command itself, from its arguments to its files, with a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_counts import run_counts
from sample_images import corrupt_images, jpeg_bytes, one_colour, png_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.folders.output_folder import claim_output
from transforms.images.image_codec import decode_image
from transforms.models.model_description import describe_model
from transforms.networks.hub_model import HubImageModel
from transforms.records import Preprocessing
from transforms.search.read_embeddings import read_embeddings

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
    assert report["counts"] == run_counts(found=100, embedded=95, failed=5)
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
    one_colour((255, 0, 0)).save(images / "red.png")
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


def test_a_refused_model_leaves_an_older_output_as_it_is(photographs, model, tmp_path):
    output = tmp_path / "out"
    arguments = ["--input", photographs / "album0", "--output", output, "--overwrite"]
    assert run(*arguments, "--model", model) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    broken = save_tiny_model(tmp_path / "broken", fault="nan_always")
    assert run(*arguments, "--model", broken) == 2
    assert run(*arguments, "--model", model, "--input", tmp_path / "missing") == 2
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_planted_nan_costs_one_image(tmp_path):
    model = save_tiny_model(tmp_path / "model", fault="nan_on_blue")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        (images / f"good{number}.png").write_bytes(png_bytes(seed=number))
    one_colour((0, 0, 255)).save(images / "blue.png")
    output = tmp_path / "out"
    assert run("--input", images, "--output", output, "--model", model) == 0
    (letter,) = dead_letters(output)
    assert (Path(letter["uri"]).name, letter["error"]) == ("blue.png", "InvalidEmbedding")
    assert np.isfinite(read_embeddings(str(output)).vectors).all()


def test_a_model_that_breaks_after_its_trial_stops_the_job_and_makes_no_dead_letter(
    tmp_path, capsys
):
    """Every image is one that the model refuses, and the trial's are not."""
    model = save_tiny_model(tmp_path / "model", fault="reject_red")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        one_colour((255, 0, 0), side=40 + number).save(images / f"red{number}.png")
    output = tmp_path / "out"
    arguments = ["--input", images, "--output", output, "--model", model]
    assert run(*arguments, "--max-failure-ratio", "1", "--direct_num_workers=1") == 1
    assert "every image of a batch of 6 failed" in capsys.readouterr().err
    assert not list((output / "dead_letters").glob("dead_letters-*"))
    assert not (output / "_SUCCESS").exists()


def test_the_preprocessing_of_the_configuration_reaches_pixels_model_and_report(
    photographs, tmp_path
):
    """A model of any size, other pixels, another range: against a plain loop."""
    model = save_tiny_model(tmp_path / "model", image_height=None, image_width=None)
    output = tmp_path / "out"
    assert (
        run(
            *("--input", photographs / "album0", "--output", output, "--model", model),
            *("--set", "preprocess.size=[24,40]", "--set", "preprocess.value_range=[-1,1]"),
            *("--set", "preprocess.antialias=false", "--set", "preprocess.fit=pad"),
        )
        == 0
    )
    contract = Preprocessing(24, 40, fit="pad", antialias=False, value_range=(-1.0, 1.0))
    network = HubImageModel.load(
        describe_model(model), height=24, width=40, value_range=(-1.0, 1.0)
    )
    table = read_embeddings(str(output))
    for uri, vector in zip(table.uris, table.vectors, strict=True):
        pixels = decode_image(Path(uri).read_bytes(), contract).pixels
        np.testing.assert_allclose(vector, network.embed(pixels[None])[0], atol=1e-5)
    assert report_of(output)["preprocessing"]["fingerprint"] == contract.fingerprint()
    assert table.provenance.preprocess_fingerprint == contract.fingerprint()


def test_local_paths_and_a_relative_model_become_absolute(
    photographs, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "model")
    shutil.copytree(photographs / "album0", tmp_path / "photos")
    assert run("--input", "photos", "--output", "out", "--model", "model") == 0
    table = read_embeddings(str(tmp_path / "out"))
    assert table.provenance.model_handle == str(tmp_path / "model")
    assert all(uri.startswith(f"{tmp_path}/photos/") for uri in table.uris)


def test_run_json_says_with_which_flags_of_beam_and_hides_secrets(photographs, model, tmp_path):
    output = tmp_path / "out"
    assert (
        run(
            *("--input", photographs / "album0", "--output", output, "--model", model),
            *("--direct_num_workers=3", "--s3_secret_access_key=hunter2"),
            *(
                "--azure_connection_string=AccountName=x;AccountKey=hunter2",
                "--experiments=x_token=hunter2",
            ),
        )
        == 0
    )
    options = report_of(output)["beam_options"]
    assert options["direct_num_workers"] == 3
    assert "hunter2" not in (output / "run.json").read_text()


def test_dataflow_is_refused_paths_that_only_this_machine_can_see(photographs, capsys):
    flags = ["--runner=DataflowRunner", "--project=my-project", "--region=europe-west4"]
    flags.append("--temp_location=gs://my-bucket/temporary")
    assert run("--input", photographs, "--output", "gs://b/out", *flags) == 2
    assert str(photographs) in capsys.readouterr().err
    assert run("--input", "gs://b/photos", "--output", "/out", *flags) == 2
    assert "/out" in capsys.readouterr().err


def test_one_odd_entry_of_a_list_is_one_dead_letter(photographs, model, tmp_path):
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    good = sorted((photographs / "album0").iterdir())
    (tmp_path / "list.txt").write_text(
        "\n".join([*map(str, good), str(pipe), "htps://host/a.png", str(tmp_path / "gone.jpg")])
    )
    output = tmp_path / "out"
    arguments = ["--input", f"@{tmp_path}/list.txt", "--output", output, "--model", model]
    assert run(*arguments) == 0
    assert sorted(letter["error"] for letter in dead_letters(output)) == [
        "ImageNotFound",
        "ImageNotFound",
        "InvalidUri",
    ]


def test_an_interrupt_ends_the_job_soon_with_one_line(photographs, model, tmp_path):
    interrupted_while_running = """
import os, signal, sys
from transforms.networks.batch_isolation import IsolatingEmbedder

# Ignored in what a shell has started in the background, tests of CI among them.
signal.signal(signal.SIGINT, signal.default_int_handler)
real_embed = IsolatingEmbedder.embed_images
interrupts = iter([signal.SIGINT])
def interrupt_and_embed(self, images):
    for interrupt in interrupts:
        os.kill(os.getpid(), interrupt)
    return real_embed(self, images)
IsolatingEmbedder.embed_images = interrupt_and_embed
from pipeline.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    output = tmp_path / "out"
    finished = subprocess.run(
        [
            *(sys.executable, "-c", interrupted_while_running),
            *("run", "--input", str(photographs), "--output", str(output), "--model", model),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 130, finished.stderr
    assert "interrupted" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (output / "_SUCCESS").exists()


def test_the_local_engine_hands_nothing_on_through_buffers_that_are_flushed_by_time(
    photographs, model, tmp_path, monkeypatch
):
    """A second thread would empty them while the worker writes: references were lost that way."""
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from apache_beam.runners.worker.data_plane import TimeBasedBufferingClosableOutputStream

    monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", 1)
    built = []
    real_init = TimeBasedBufferingClosableOutputStream.__init__

    def recording_init(self, *arguments, **options):
        built.append(self)
        real_init(self, *arguments, **options)

    monkeypatch.setattr(TimeBasedBufferingClosableOutputStream, "__init__", recording_init)
    arguments = ["--input", photographs / "album0", "--output", tmp_path / "out", "--model", model]
    assert run(*arguments, "--direct_running_mode=multi_threading", "--direct_num_workers=2") == 0
    assert not built


def test_a_broken_corpus_is_reported_as_such_and_not_by_one_of_its_files(model, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("".join(f"/nowhere/{n}.jpg\n" for n in range(1500)))
    arguments = ["--input", f"@{tmp_path}/list.txt", "--output", tmp_path / "out", "--model", model]
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert "TooManyFailures: 1000 of the first 1000 images of a worker failed" in error
    assert "Traceback" not in error


def test_of_two_runs_in_one_folder_the_earlier_one_is_not_complete(
    photographs, model, tmp_path, capsys, monkeypatch
):
    """The later one takes the folder over while the earlier one embeds."""
    from transforms.networks.batch_isolation import IsolatingEmbedder

    output = tmp_path / "out"
    real_embed = IsolatingEmbedder.embed_images
    claims = iter(["later-run"])

    def embed_after_a_later_run_began(self, images):
        for run_id in claims:
            claim_output(str(output), run_id)
        return real_embed(self, images)

    monkeypatch.setattr(IsolatingEmbedder, "embed_images", embed_after_a_later_run_began)
    assert run("--input", photographs / "album0", "--output", output, "--model", model) == 1
    assert "another run (later-run) began" in capsys.readouterr().err
    assert not (output / "_SUCCESS").exists()
    assert report_of(output) == {"status": "running", "run_id": "later-run"}


def test_a_pattern_over_the_output_itself_embeds_the_images_and_not_the_output(
    photographs, model, tmp_path
):
    folder = tmp_path / "photos"
    shutil.copytree(photographs / "album0", folder)
    for _ in range(2):
        arguments = ["--input", f"{folder}/**", "--output", folder, "--model", model]
        assert run(*arguments, "--overwrite") == 0
        assert report_of(folder)["counts"] == run_counts(found=32, embedded=32)


def test_files_that_are_no_images_stand_in_report_and_summary(photographs, model, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photographs / "album0", folder)
    (folder / "notes.txt").touch()
    output = tmp_path / "out"
    assert run("--input", folder, "--output", output, "--model", model) == 0
    assert report_of(output)["ignored_files"] == 1
    assert "ignored    1 files" in capsys.readouterr().out


def test_out_of_memory_costs_no_image(photographs, tmp_path):
    model = save_tiny_model(tmp_path / "model", fault="out_of_memory_above_4")
    output = tmp_path / "out"
    assert run("--input", photographs / "album0", "--output", output, "--model", model) == 0
    assert report_of(output)["counts"] == run_counts(found=32, embedded=32)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--input", "{folder}/*.gif"], "nothing matched"),
        (["--input", "{folder}/missing"], "no file or folder"),
        (["--input", "@{folder}/missing.txt"], "missing.txt"),
        (["--input", "foo://x/y"], "foo://x/y"),
        (["--input", "{folder}/[z-a].png"], "is no pattern"),
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


@pytest.mark.parametrize(
    ("handle", "found"),
    [
        ("https://me:hunter2@host/model.tar.gz", "user name"),
        ("https://host/model.tar.gz?X-Goog-Signature=hunter2", "signature or a token"),
        ("https://host/model.tar.gz?a=b&sig=hunter2", "signature or a token"),
    ],
)
def test_a_model_handle_that_holds_a_secret_is_refused_without_saying_it(
    photographs, tmp_path, capsys, handle, found
):
    assert run("--input", photographs, "--output", tmp_path / "out", "--model", handle) == 2
    error = capsys.readouterr().err
    assert f"holds a {found}" in error
    assert "stage-model" in error
    assert "hunter2" not in error


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
