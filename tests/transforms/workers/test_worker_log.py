"""What workers log: at most one line a bundle of a step, with counts, never what images hold."""

import json
import logging
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from sample_images import corrupt_images, jpeg_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.errors import BatchTooLarge, UndecodableImage
from transforms.networks.batch_isolation import IsolatingEmbedder
from transforms.records import ImageRef
from transforms.step_parts.attempt_each import AttemptEach
from transforms.workers import worker_log

SECRET = "signature=7f3c9a"


def events(caplog):
    """The lines of workers, in order; each must be JSON of one line."""
    messages = [each.getMessage() for each in caplog.records if each.name == "embed-images"]
    assert all("\n" not in message for message in messages)
    return [json.loads(message) for message in messages]


class CountBundles(beam.DoFn):
    """Passes everything on, and leaves a file for each bundle."""

    def __init__(self, folder):
        self.folder = folder

    def start_bundle(self):
        number = len(list(self.folder.iterdir()))
        (self.folder / str(number)).touch()

    def process(self, element):
        yield element


def refuse_odd_numbers(ref):
    if int(ref.uri.partition("?")[0]) % 2:
        raise UndecodableImage(f"the file begins with \x89PNG {SECRET}")
    return [ref]


def test_a_bundle_with_failures_leaves_one_line_and_names_no_image(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create([ImageRef(f"{number}?{SECRET}") for number in range(100)])
            | beam.ParDo(CountBundles(tmp_path))
            | AttemptEach("Halve", "halved", refuse_odd_numbers, lambda ref: ref)
        )
    lines = events(caplog)
    assert 1 <= len(lines) <= len(list(tmp_path.iterdir()))
    assert {line["event"] for line in lines} == {"images-failed"}
    assert {line["step"] for line in lines} == {"Halve"}
    assert sum(line["failed"]["UndecodableImage"] for line in lines) == 50
    assert sum(line["halved"] for line in lines) == 50
    assert SECRET not in caplog.text


def test_a_bundle_without_failures_leaves_no_line(caplog):
    caplog.set_level(logging.INFO)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create([ImageRef(str(number)) for number in range(0, 100, 2)])
            | AttemptEach("Halve", "halved", refuse_odd_numbers, lambda ref: ref)
        )
    assert events(caplog) == []


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.jpg").write_bytes(jpeg_bytes(seed=number))
    for name, content in list(corrupt_images().items())[:3]:
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def test_a_run_logs_no_image_and_no_path(caplog, photographs, tmp_path):
    caplog.set_level(logging.INFO)
    model = save_tiny_model(tmp_path / "model")
    output = tmp_path / "out"
    status = main(
        [
            *("run", f"--input={photographs}", f"--output={output}", f"--model={model}"),
            *("--max-failure-ratio=1", "--direct_num_workers=1"),
        ]
    )
    assert status == 0
    found = json.loads((output / "run.json").read_text())["counts"]
    lines = events(caplog)
    failed = [line for line in lines if line["event"] == "images-failed"]
    assert sum(sum(line["failed"].values()) for line in failed) == found["failed"] == 3
    # The local engine makes one bundle of so few images, and they fail in one step.
    assert len(failed) == 1
    (loaded,) = (line for line in lines if line["event"] == "model-loaded")
    assert loaded["seconds"] >= 0
    assert loaded["gpus"] >= 0
    whole = json.dumps(lines)
    assert "photographs" not in whole
    assert str(tmp_path) not in whole
    for path in photographs.iterdir():
        beginning = path.read_bytes()[:16]
        # Neither as text nor as Python shows bytes.
        assert not beginning or repr(beginning)[2:-1] not in caplog.text
        assert not beginning or beginning.decode("latin-1") not in caplog.text


def test_memory_that_runs_out_leaves_one_line_a_batch(caplog):
    caplog.set_level(logging.INFO)

    def embed(pixels):
        if len(pixels) > 2:
            raise BatchTooLarge("no memory for 1 GB")
        return pixels.mean(axis=(1, 2)).astype("float32")

    embedder = IsolatingEmbedder(embed, embedding_width=3, largest_batch=32)
    images = [np.zeros((4, 4, 3), np.uint8)] * 32
    embedder.embed_images(images)
    embedder.embed_images(images)
    assert events(caplog) == [{"event": "batch-reduced", "images": 2}]


def test_the_library_logs_nothing_but_such_lines():
    root = Path(worker_log.__file__).parents[1]
    loggers = [path.name for path in root.rglob("*.py") if "getLogger" in path.read_text()]
    assert loggers == ["worker_log.py"]
