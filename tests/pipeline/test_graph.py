"""Every key of the configuration reaches the step that it is about; the last step waits on all."""

import gzip
import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from bigquery_emulator import bigquery_emulator
from google.cloud.bigquery import SchemaField
from image_examples_files import write_examples
from run_counts import run_counts
from sample_images import corrupt_images, encode, one_colour, png_bytes
from storage_emulator import storage_server

from pipeline.config import JobConfig
from pipeline.destination import prepare_destination, settle_destination
from pipeline.graph import Job, build_graph
from pipeline.inputs import carried_columns, run_queries
from pipeline.report import read_report
from pipeline.run_facts import run_facts
from transforms.bigquery.load import create_staging, run_jobs, staging_table
from transforms.bigquery.schema import table_schema
from transforms.errors import RejectedImage
from transforms.formats.embedding_table import Provenance
from transforms.models.model_description import ModelDescription
from transforms.networks.batch_isolation import EmbeddedPixels
from transforms.records import OutputLayout, Preprocessing
from transforms.search.read_embeddings import read_embeddings

CONTRACT = Preprocessing(height=8, width=8)
PROVENANCE = Provenance("the handle", "0" * 16, CONTRACT.fingerprint())
LAYOUT = OutputLayout(embedding_width=3)
DESCRIPTION = ModelDescription("the folder", 8, 8, (), "0" * 16, False, True)


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
def warehouse():
    with bigquery_emulator() as warehouse:
        yield warehouse


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png_bytes(20, 10, seed=number))
    return folder


def run(images, folder=None, *, flags=(), before=lambda job: None, **sections):
    """Run the job over the images into the folder; return its report."""
    settings = {
        "input": {"patterns": [str(images)]},
        "output": {"path": folder and str(folder)},
        "model": {"handle": "the handle"},
        "failures": {"max_ratio": 1.0},
    }
    for section, keys in sections.items():
        settings[section] |= keys
    config = JobConfig.model_validate_json(json.dumps(settings))
    options = PipelineOptions(list(flags))
    columns = carried_columns(config.input)
    destination, _ = settle_destination(config.output, options)
    job = Job(
        config,
        destination,
        CONTRACT,
        PROVENANCE,
        MeanColour(),
        run_facts(config, options, destination, DESCRIPTION, "float32", CONTRACT, LAYOUT, columns),
        LAYOUT,
        columns,
        run_queries(config, destination.run_id, columns),
    )
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_graph(pipeline, job)
    prepare_destination(destination, config.output, LAYOUT, columns, PROVENANCE)
    before(job)
    pipeline.run()
    return read_report(destination.run_folder)


def test_the_handler_that_is_handed_in_makes_the_vectors(images, tmp_path):
    report = run(images, tmp_path / "out")
    assert report["counts"] == run_counts(found=4, embedded=4)
    assert report["model"]["handle"] == "the handle"
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


@pytest.mark.parametrize(
    ("formats", "suffixes"),
    [
        (["tfrecord"], {".tfrecord"}),
        (["parquet"], {".parquet"}),
        (["parquet", "tfrecord"], {".parquet", ".tfrecord"}),
    ],
)
def test_the_formats_and_their_shards_reach_the_writers(images, tmp_path, formats, suffixes):
    report = run(images, tmp_path / "out", output={"formats": formats, "shards": 2})
    names = {f"embeddings-0000{n}-of-00002{suffix}" for n in range(2) for suffix in suffixes}
    assert {path.name for path in (tmp_path / "out").glob("embeddings-*")} == names
    assert names <= {Path(path).name for path in report["files"]}
    assert (tmp_path / "out" / "schema.pbtxt").exists() == ("tfrecord" in formats)
    assert read_embeddings(tmp_path / "out").vectors.shape == (4, 3)


def test_columns_of_a_manifest_reach_every_output_and_the_dead_letters(images, tmp_path):
    (images / "corrupt.png").write_bytes(b"no image")
    manifest = tmp_path / "photos.csv"
    names = ["0.png", "1.png", "corrupt.png"]
    lines = [f"{images / name},label {n},{n}.5" for n, name in enumerate(names)]
    manifest.write_text("\n".join(["photo,label,price", *lines]))
    run(
        f"@{manifest}",
        tmp_path / "out",
        input={"uri_column": "photo", "carry": ["label", "price:float64"]},
        output={"formats": ["parquet", "tfrecord"]},
    )
    # The reader takes Parquet where both are there.
    for read_before in ((), (tmp_path / "out").glob("*.parquet")):
        for path in read_before:
            path.unlink()
        table = read_embeddings(tmp_path / "out")
        rows = zip(table.uris, table.carried["label"], table.carried["price"], strict=True)
        assert sorted(rows) == [
            (str(images / "0.png"), "label 0", 0.5),
            (str(images / "1.png"), "label 1", 1.5),
        ]
    [letter] = dead_letters(tmp_path / "out")
    assert letter["carried"] == {"label": "label 2", "price": 2.5}


def dead_letters(folder):
    [path] = (folder / "dead_letters").iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_images_inside_tfrecords_are_read_with_the_settings_of_the_input(tmp_path):
    contents = [png_bytes(20, 10, seed=1), png_bytes(200, 100, seed=2)]
    write_examples(
        tmp_path / "photos.tfrecord",
        [
            {"image/encoded": content, "image/filename": f"{n}.png".encode(), "price": float(n)}
            for n, content in enumerate(contents)
        ],
    )
    report = run(
        f"tfrecord:{tmp_path}/photos.tfrecord",
        tmp_path / "out",
        input={"carry": ["price:float64"], "max_bytes": len(contents[0])},
    )
    assert report["counts"] == run_counts(found=2, embedded=1, failed=1)
    assert report["failures_by_error"] == {"ImageTooLarge": 1}
    assert read_embeddings(tmp_path / "out").carried["price"] == [0.0]


def test_an_incremental_run_embeds_what_is_new_and_names_what_it_started_from(images, tmp_path):
    first = run(images, tmp_path / "out", output={"incremental": True})
    (images / "new.png").write_bytes(png_bytes(seed=10))
    second = run(images, tmp_path / "out", output={"incremental": True})
    assert first["counts"] == run_counts(found=4, embedded=4)
    assert second["counts"] == run_counts(found=5, skipped=4, embedded=1)
    assert (first["parents"], second["parents"]) == ([], [first["run_id"]])
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert runs == sorted([first["run_id"], second["run_id"]])
    assert len(read_embeddings(tmp_path / "out")) == 5


def test_a_plain_run_writes_no_ledger_and_skips_nothing(images, tmp_path):
    for _ in range(2):
        report = run(images, tmp_path / "out", output={"overwrite": True})
        assert report["counts"] == run_counts(found=4, embedded=4)
    assert not list((tmp_path / "out").glob("manifest-*"))


def test_prune_and_its_limit_reach_selection_and_check(images, tmp_path):
    incremental = {"incremental": True}
    run(images, tmp_path / "out", output=incremental)
    for name in ("0.png", "1.png"):
        (images / name).unlink()
    report = run(images, tmp_path / "out", output=incremental)
    assert report["counts"] == run_counts(found=2, skipped=2, gone=2)
    assert len(read_embeddings(tmp_path / "out")) == 4

    prune = {**incremental, "prune": True}
    with pytest.raises(Exception, match=r"above the limit of output\.max_pruned_ratio"):
        run(images, tmp_path / "out", output={**prune, "max_pruned_ratio": 0.4})
    assert len(read_embeddings(tmp_path / "out")) == 4
    report = run(images, tmp_path / "out", output={**prune, "max_pruned_ratio": 0.5})
    assert report["counts"] == run_counts(found=2, skipped=2, gone=2, pruned=2)
    assert len(read_embeddings(tmp_path / "out")) == 2


def test_a_file_that_counts_as_no_image_any_more_is_not_gone(images, tmp_path):
    (images / "old.gif").write_bytes(png_bytes(seed=10))
    run(images, tmp_path / "out", output={"incremental": True})
    report = run(
        images, tmp_path / "out", input={"extensions": [".png"]}, output={"incremental": True}
    )
    assert report["counts"] == run_counts(found=4, skipped=4)


def test_in_an_incremental_run_an_object_of_a_list_is_known_without_reading_it(tmp_path):
    with storage_server() as server:
        server.put("0.png", png_bytes(seed=0))
        (tmp_path / "list.txt").write_text(f"{server.address}/0.png\n")
        counts = []
        for _ in range(2):
            server.requests.clear()
            report = run(f"@{tmp_path}/list.txt", tmp_path / "out", output={"incremental": True})
            counts.append(report["counts"])
    assert counts == [run_counts(found=1, embedded=1), run_counts(found=1, skipped=1)]
    assert server.requests
    assert not [request for request in server.requests if "download" in request]


def test_what_the_run_writes_is_none_of_its_images(images):
    for _ in range(2):
        report = run(f"{images}/**", images, output={"overwrite": True})
        assert report["counts"] == run_counts(found=4, embedded=4)


@pytest.mark.parametrize("stage", ["ReadImages", "DecodeImages", "EmbedImages"])
def test_the_breaker_of_every_step_stops_the_job(images, tmp_path, stage):
    random_bytes = corrupt_images()["random bytes"]
    bad = {
        "ReadImages": lambda path, n: path.symlink_to(tmp_path / "nowhere"),
        "DecodeImages": lambda path, n: path.write_bytes(random_bytes + bytes([n])),
        "EmbedImages": lambda path, n: path.write_bytes(png_bytes_of_black(8 + n)),
    }[stage]
    for number in range(9):
        bad(images / f"bad{number}.png", number)
    with pytest.raises(Exception, match=rf"of the first 10 images .* failed in {stage}"):
        run(images, tmp_path / "out", failures={"max_ratio": 0.1, "breaker_images": 10})
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def png_bytes_of_black(side):
    return encode(one_colour((0, 0, 0), side), "PNG")


def test_a_breaker_tolerates_what_the_job_tolerates(images, tmp_path):
    for number in range(9):
        (images / f"bad{number}.png").write_bytes(b"no image")
    report = run(images, tmp_path / "out", failures={"max_ratio": 0.9, "breaker_images": 10})
    assert report["counts"] == run_counts(found=13, embedded=4, failed=9)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("embeddings", {}),
        ("embeddings", {"formats": ["parquet"]}),
        ("dead_letters", {}),
        ("manifest", {"incremental": True}),
    ],
    ids=["WriteTFRecords", "WriteParquet", "WriteDeadLetters", "WriteManifest"],
)
def test_the_last_step_waits_on_every_sink(images, tmp_path, monkeypatch, name, output):
    """A sink whose last act fails keeps the run from being marked complete."""
    from apache_beam.io import filebasedsink

    real_finalize = filebasedsink.FileBasedSink.finalize_write

    def finalize_or_fail(self, init_result, writer_results, pre_finalize_results):
        if name in self.file_path_prefix.get().rsplit("/", 1)[-1]:
            raise OSError("the disk is full")
        return real_finalize(self, init_result, writer_results, pre_finalize_results)

    monkeypatch.setattr(filebasedsink.FileBasedSink, "finalize_write", finalize_or_fail)
    with pytest.raises(Exception, match="the disk is full"):
        run(images, tmp_path / "out", output=output)
    assert not list((tmp_path / "out").rglob("_SUCCESS"))


def run_into_table(warehouse, images, **settings):
    output = {**settings.pop("output", {}), "table": warehouse.table("photos")}
    flags = [f"--temp_location={warehouse.bucket}/temp"]
    return run(images, None, flags=flags, output=output, **settings)


def uris_of(warehouse):
    return [row["uri"] for row in warehouse.query("SELECT uri FROM photos ORDER BY uri")]


def test_rows_reach_the_table_behind_the_check_of_all_counts(images, warehouse):
    (images / "corrupt.png").write_bytes(b"no image")
    with pytest.raises(Exception, match="1 of 5 images failed"):
        run_into_table(warehouse, images, failures={"max_ratio": 0.1})
    assert uris_of(warehouse) == []
    report = run_into_table(warehouse, images, failures={"max_ratio": 0.2})
    assert report["counts"] == run_counts(found=5, embedded=4, failed=1)
    assert uris_of(warehouse) == [str(images / f"{n}.png") for n in range(4)]
    recorded = warehouse.query("SELECT status, failed FROM photos_runs ORDER BY started_at")
    assert [row["status"] for row in recorded] == ["failed", "complete"]


def test_rows_that_bigquery_refuses_are_failed_and_not_embedded(images, warehouse):
    def let_staging_table_refuse_words(job):
        columns = [
            SchemaField("label", "INT64") if field.name == "label" else field
            for field in table_schema(LAYOUT, job.columns)
        ]
        table, run_id = job.destination.table, job.destination.run_id
        create_staging(run_jobs(table, run_id), staging_table(table, run_id), columns)

    manifest = images.parent / "photos.csv"
    lines = [f"{images}/{n}.png,{label}" for n, label in enumerate(("1", "cat", "2", "3"))]
    manifest.write_text("\n".join(["uri,label", *lines]))
    report = run_into_table(
        warehouse,
        f"@{manifest}",
        input={"carry": ["label"]},
        before=let_staging_table_refuse_words,
    )
    assert report["counts"] == run_counts(found=4, embedded=3, failed=1)
    assert report["failures_by_error"] == {"RefusedRow": 1}
    assert uris_of(warehouse) == [f"{images}/{n}.png" for n in (0, 2, 3)]


def test_the_images_of_a_query_and_of_a_table_are_those_of_the_job(images, warehouse):
    values = ", ".join(f"('{images}/{n}.png', {n})" for n in range(4))
    warehouse.query("CREATE TABLE stock (photo STRING, number INT64)")
    warehouse.query(f"INSERT INTO stock VALUES {values}")
    stock = warehouse.table("stock")
    one = images.parent / "one"
    one.mkdir()
    (one / "1.png").symlink_to(images / "1.png")
    report = run_into_table(
        warehouse,
        one,
        input={
            "query": f"SELECT * FROM `{stock}` WHERE number = 3",
            "uri_column": "photo",
            "carry": ["number:int64"],
        },
    )
    assert report["counts"] == run_counts(found=2, embedded=2)
    rows = warehouse.query("SELECT uri, number FROM photos ORDER BY uri")
    assert [tuple(row.values()) for row in rows] == [
        (f"{images}/3.png", 3),
        (f"{one}/1.png", None),
    ]
    report = run_into_table(
        warehouse, f"bq://{stock}", input={"uri_column": "photo", "carry": ["number:int64"]}
    )
    assert report["counts"] == run_counts(found=4, embedded=4)


def test_an_incremental_run_goes_by_the_table_and_prunes_it(images, warehouse):
    run_into_table(warehouse, images)
    (images / "0.png").unlink()
    (images / "new.png").write_bytes(png_bytes(seed=10))
    report = run_into_table(warehouse, images, output={"incremental": True})
    assert report["counts"] == run_counts(found=4, skipped=3, embedded=1, gone=1)
    assert len(uris_of(warehouse)) == 5
    prune = {"incremental": True, "prune": True}
    report = run_into_table(warehouse, images, output=prune)
    assert report["counts"] == run_counts(found=4, skipped=4, gone=1, pruned=1)
    assert uris_of(warehouse) == sorted(map(str, images.iterdir()))
