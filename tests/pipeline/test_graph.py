"""Every key of the configuration reaches the step that it is about; the last step waits on all."""

import gzip
import json

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import ModelHandler
from sample_images import corrupt_images, png_bytes

from pipeline.config import JobConfig
from pipeline.graph import Job, build_graph
from transforms import write_dead_letters, write_tfrecords
from transforms.batch_isolation import EmbeddedPixels
from transforms.embedding_table import Provenance
from transforms.errors import RejectedImage
from transforms.output_folder import schema_path, write_text
from transforms.read_embeddings import read_embeddings
from transforms.records import OutputLayout, Preprocessing
from transforms.tf_example import embeddings_schema_text

CONTRACT = Preprocessing(height=8, width=8)
PROVENANCE = Provenance("the handle", "0" * 16, CONTRACT.fingerprint())
LAYOUT = OutputLayout(embedding_width=3)


class MeanColour(ModelHandler):
    """A model without a network: the mean colour of an image; it refuses a black one."""

    def load_model(self):
        return MeanColour()

    def run_inference(self, batch, model, inference_args=None):
        means = [pixels.mean(axis=(0, 1)).astype(np.float32) for pixels in batch]
        return [
            EmbeddedPixels(mean, 1.0) if mean.any() else RejectedImage("black") for mean in means
        ]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png_bytes(20, 10, seed=number))
    return folder


def run(images, folder, **sections):
    settings = {
        "input": {"patterns": [str(images)]},
        "output": {"path": str(folder)},
        "failures": {"max_ratio": 1.0},
    }
    for section, keys in sections.items():
        settings[section] |= keys
    config = JobConfig.model_validate_json(json.dumps(settings))
    pipeline = beam.Pipeline(runner="FnApiRunner")
    facts = {"run_id": "the-run"}
    build_graph(pipeline, Job(config, CONTRACT, PROVENANCE, MeanColour(), facts, LAYOUT))
    folder.mkdir(exist_ok=True)
    write_text(schema_path(str(folder)), embeddings_schema_text(LAYOUT))
    pipeline.run()
    return json.loads((folder / "run.json").read_text())


def test_the_handler_that_is_handed_in_makes_the_vectors(images, tmp_path):
    report = run(images, tmp_path / "out")
    assert report["counts"] == {"found": 4, "embedded": 4, "failed": 0}
    assert report["run_id"] == "the-run"
    table = read_embeddings(str(tmp_path / "out"))
    assert table.vectors.shape == (4, 3)
    assert table.provenance == PROVENANCE
    assert set(table.heights) == {10}
    assert set(table.widths) == {20}


@pytest.mark.parametrize(
    ("section", "keys", "counts"),
    [
        ("input", {"max_bytes": 1}, {"ImageTooLarge": 4}),
        ("input", {"max_pixels": 199}, {"ImageTooLarge": 4}),
        ("input", {"max_pixels": 200}, {}),
        ("input", {"extensions": [".png", ".txt"]}, {"UndecodableImage": 1}),
    ],
)
def test_the_settings_of_the_input_reach_their_steps(images, tmp_path, section, keys, counts):
    (images / "notes.txt").write_text("no image")
    report = run(images, tmp_path / "out", **{section: keys})
    assert report["failures_by_error"] == counts


def test_the_settings_of_the_output_reach_the_writer(images, tmp_path):
    run(images, tmp_path / "out", output={"compression": "gzip", "shards": 3})
    shards = sorted((tmp_path / "out").glob("embeddings-*"))
    assert [path.name for path in shards] == [
        f"embeddings-0000{n}-of-00003.tfrecord.gz" for n in range(3)
    ]
    assert b"".join(gzip.decompress(path.read_bytes()) for path in shards)


@pytest.mark.parametrize("stage", ["ReadImages", "DecodeImages", "EmbedImages"])
def test_the_breaker_of_every_step_stops_the_job(images, tmp_path, stage):
    bad = {
        "ReadImages": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "DecodeImages": lambda path: path.write_bytes(corrupt_images()["random bytes"]),
        "EmbedImages": lambda path: path.write_bytes(png_bytes_of_black()),
    }[stage]
    for number in range(9):
        bad(images / f"bad{number}.png")
    with pytest.raises(Exception, match=rf"of the first 10 images .* failed in {stage}"):
        run(images, tmp_path / "out", failures={"max_ratio": 0.1, "breaker_images": 10})
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def png_bytes_of_black():
    from PIL import Image
    from sample_images import encode

    return encode(Image.new("RGB", (8, 8)), "PNG")


def test_a_breaker_tolerates_what_the_job_tolerates(images, tmp_path):
    for number in range(9):
        (images / f"bad{number}.png").write_bytes(b"no image")
    report = run(images, tmp_path / "out", failures={"max_ratio": 0.9, "breaker_images": 10})
    assert report["counts"] == {"found": 13, "embedded": 4, "failed": 9}


@pytest.mark.parametrize(
    ("module", "sink"), [(write_tfrecords, "WriteTFRecords"), (write_dead_letters, "Write")]
)
def test_the_last_step_waits_on_every_sink(images, tmp_path, monkeypatch, module, sink):
    """A sink whose last act fails keeps the run from being marked complete."""
    from apache_beam.io import filebasedsink

    real_finalize = filebasedsink.FileBasedSink.finalize_write
    name = "embeddings" if module is write_tfrecords else "dead_letters"

    def finalize_or_fail(self, init_result, writer_results, pre_finalize_results):
        if name in self.file_path_prefix.get().rsplit("/", 1)[-1]:
            raise OSError("the disk is full")
        return real_finalize(self, init_result, writer_results, pre_finalize_results)

    monkeypatch.setattr(filebasedsink.FileBasedSink, "finalize_write", finalize_or_fail)
    with pytest.raises(Exception, match="the disk is full"):
        run(images, tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()
