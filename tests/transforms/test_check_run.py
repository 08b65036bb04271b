import datetime
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.check_run import CheckRun, RunParts, check_run
from transforms.errors import ForeignOutput, IncompleteRun, TooManyFailures, TooManyPruned
from transforms.finish_run import FinishRun, finish_run
from transforms.folders.output_folder import claim_output
from transforms.folders.run_report import RunLimits
from transforms.ledgers.ledger import entries_to_arrow
from transforms.records import Embedding, Failure, ImageInfo, ImageRef, LedgerEntry

STARTED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FACTS = {"run_id": "the-run", "started_at": STARTED.isoformat()}


@pytest.fixture(autouse=True)
def shard(tmp_path):
    """The one shard that the sink of a small run leaves behind."""
    path = tmp_path / "embeddings-00000-of-00001.tfrecord"
    path.touch()
    return path


def failure(number, error="UndecodableImage"):
    return Failure(f"/{number}.jpg", "DecodeImages", error, "cut short", "2026-01-01T00:00:00")


def finish(folder, ratio, observed, **settings):
    step = CheckRun(str(folder), FACTS, RunLimits(ratio, 0.5), **settings)
    return finish_run(check_run(step, **observed), str(folder))


def observed(**changes):
    return {
        "ignored": 2,
        "found": 10,
        "skipped": 0,
        "inferred": 9,
        "refused": 0,
        "failed": 1,
        "gone": 0,
        "mean_batch_slots": 1.25,
        "reasons": [("UndecodableImage", 1)],
        "quoted": [failure(1)],
        **changes,
    }


def report_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_complete_run_is_reported_and_then_marked(tmp_path, shard):
    (tmp_path / "embeddings.txt").touch()
    finish(tmp_path, 0.1, observed())
    report = report_of(tmp_path)
    assert report["status"] == "complete"
    assert report["counts"] == {
        "found": 10,
        "skipped": 0,
        "embedded": 9,
        "failed": 1,
        "gone": 0,
        "pruned": 0,
    }
    assert report["ignored_files"] == 2
    assert report["mean_batch_fill"] == 0.8
    assert report["failures_by_error"] == {"UndecodableImage": 1}
    assert report["example_failures"][0]["uri"] == "/1.jpg"
    assert report["files"] == [str(shard)]
    assert report["run_id"] == "the-run"
    finished = datetime.datetime.fromisoformat(report["finished_at"])
    assert report["seconds"] == pytest.approx((finished - STARTED).total_seconds(), abs=1)
    assert (tmp_path / "_SUCCESS").read_bytes() == b""


def test_success_is_written_after_the_report(tmp_path):
    (tmp_path / "run.json").mkdir()  # so that the report cannot be written
    with pytest.raises(OSError, match="directory"):
        finish(tmp_path, 0.1, observed())
    assert not (tmp_path / "_SUCCESS").exists()


def test_finishing_twice_leaves_the_same_files(tmp_path):
    for _ in range(2):
        finish(tmp_path, 0.1, observed())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "_SUCCESS",
        "embeddings-00000-of-00001.tfrecord",
        "run.json",
    ]


def test_a_run_that_lost_an_image_is_not_complete(tmp_path):
    with pytest.raises(
        IncompleteRun, match="found 10 images, but skipped 0, embedded 8 and failed 1 make 9"
    ):
        finish(tmp_path, 0.1, observed(inferred=8))
    assert not (tmp_path / "_SUCCESS").exists()


def test_a_run_that_wrote_an_image_twice_is_not_complete(tmp_path):
    with pytest.raises(IncompleteRun, match="make 11"):
        finish(tmp_path, 0.1, observed(inferred=10))
    assert not (tmp_path / "_SUCCESS").exists()
    assert report_of(tmp_path)["status"] == "failed"


def test_a_run_whose_folder_another_run_has_claimed_is_not_complete(tmp_path):
    claim_output(str(tmp_path), "the-run")
    claim_output(str(tmp_path), "another-run")
    with pytest.raises(ForeignOutput, match=r"another run \(another-run\) began"):
        finish(tmp_path, 0.1, observed())
    assert not (tmp_path / "_SUCCESS").exists()
    assert report_of(tmp_path) == {"status": "running", "run_id": "another-run"}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["00000-of-00002", "00001-of-00002", "00000-of-00003"], "more than one run"),
        (["00000-of-00002"], "1 of the 2 shards"),
    ],
)
def test_a_folder_that_does_not_hold_one_whole_set_of_shards_is_not_complete(
    tmp_path, shard, names, sentence
):
    shard.unlink()
    for name in names:
        (tmp_path / f"embeddings-{name}.tfrecord").touch()
    with pytest.raises(IncompleteRun, match=sentence):
        finish(tmp_path, 0.1, observed())
    assert not (tmp_path / "_SUCCESS").exists()


def test_a_run_that_found_nothing_is_not_complete(tmp_path):
    nothing = observed(
        found=0, inferred=0, failed=0, reasons=[], quoted=[], mean_batch_slots=float("nan")
    )
    with pytest.raises(IncompleteRun, match="no image was found"):
        finish(tmp_path, 0.1, nothing)
    assert report_of(tmp_path)["mean_batch_fill"] is None


def test_too_many_failures_name_the_reasons_and_an_example(tmp_path):
    too_many = observed(
        inferred=7,
        failed=3,
        reasons=[("ImageTooLarge", 1), ("UndecodableImage", 2)],
        quoted=[failure(1), failure(2)],
    )
    with pytest.raises(
        TooManyFailures,
        match=r"3 of 10 images failed \(2 UndecodableImage, 1 ImageTooLarge\).*0.300.*limit of "
        r"0\.2.*/1\.jpg: cut short",
    ):
        finish(tmp_path, 0.2, too_many)
    assert not (tmp_path / "_SUCCESS").exists()
    assert report_of(tmp_path)["counts"]["failed"] == 3


def test_a_ratio_at_the_limit_passes(tmp_path):
    finish(tmp_path, 0.1, observed())
    assert (tmp_path / "_SUCCESS").exists()


def embedding(number, batch_slots):
    info = ImageInfo(f"/{number}.jpg", "0" * 64, "JPEG", 1, 1)
    return Embedding(info, np.zeros(2, np.float32), batch_slots)


def parts_of(pipeline, **given):
    """The parts of a run from lists; what is not given is empty."""
    parts = {
        name: pipeline | name.title() >> beam.Create(given.get(name, []))
        for name in RunParts._fields
    }
    return RunParts(**parts | {name: (parts[name],) for name in ("found", "skipped")})


def test_the_step_counts_what_reaches_it_and_waits_on_the_sinks(tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        parts = parts_of(
            pipeline,
            found=[ImageRef(f"/{n}.jpg") for n in range(7)],
            skipped=["/5.jpg", "/6.jpg"],
            inferred=[embedding(n, 1.6) for n in range(3)] + [embedding(7, 0.0)],
            refused=[failure(2)],
            failed=[failure(4), failure(3, "ImageTooLarge"), failure(2)],
            gone=["/9.jpg"],
            waited_on=["x"],
            ignored=["notes.txt"],
        )
        parts = parts._replace(found=(*parts.found, pipeline | beam.Create(["/8.jpg"])))
        step = CheckRun(str(tmp_path), FACTS, RunLimits(0.5))
        _ = parts | step | FinishRun(str(tmp_path))
    report = report_of(tmp_path)
    assert report["counts"] == {
        "found": 8,
        "skipped": 2,
        "embedded": 3,
        "failed": 3,
        "gone": 1,
        "pruned": 0,
    }
    assert report["mean_batch_fill"] == 0.625  # the twin of another image was in no batch
    assert [example["uri"] for example in report["example_failures"]] == [
        "/2.jpg",
        "/3.jpg",
        "/4.jpg",
    ]
    assert (tmp_path / "_SUCCESS").exists()


def test_a_sink_that_fails_keeps_the_run_from_being_marked(tmp_path):
    def fail(name):
        raise OSError("the disk is full")

    pipeline = beam.Pipeline(runner="FnApiRunner")
    parts = parts_of(
        pipeline, found=[ImageRef("/1.jpg")], inferred=[embedding(1, 1.0)], waited_on=["x"]
    )
    parts = parts._replace(waited_on=parts.waited_on | beam.Map(fail))
    _ = parts | CheckRun(str(tmp_path), FACTS, RunLimits(0.5)) | FinishRun(str(tmp_path))
    with pytest.raises(Exception, match="the disk is full"):
        pipeline.run()
    assert not (tmp_path / "_SUCCESS").exists()


def test_a_run_that_found_nothing_new_is_complete(tmp_path):
    nothing_new = observed(
        skipped=10, inferred=0, failed=0, reasons=[], quoted=[], mean_batch_slots=float("nan")
    )
    finish(tmp_path, 0.0, nothing_new)
    assert report_of(tmp_path)["counts"]["skipped"] == 10
    assert (tmp_path / "_SUCCESS").exists()


def test_one_image_that_fails_every_night_does_not_fail_a_run_with_nothing_new(tmp_path):
    finish(tmp_path, 0.1, observed(skipped=9, inferred=0))
    assert (tmp_path / "_SUCCESS").exists()


def test_images_that_are_gone_are_reported_and_count_as_pruned_where_they_are(tmp_path):
    finish(tmp_path, 0.1, observed(gone=10), prune=True)
    assert report_of(tmp_path)["counts"]["pruned"] == 10


def test_a_run_that_would_prune_more_than_the_limit_stops_before_it_prunes(tmp_path):
    with pytest.raises(TooManyPruned, match="11 images of earlier runs are gone and 10 are there"):
        finish(tmp_path, 0.1, observed(gone=11), prune=True)
    assert not (tmp_path / "_SUCCESS").exists()
    finish(tmp_path, 0.1, observed(gone=11), prune=False)
    assert report_of(tmp_path)["counts"]["pruned"] == 0


def test_a_run_is_recorded_elsewhere_before_it_is_marked_and_also_when_it_failed(tmp_path):
    recorded = []
    step = CheckRun(str(tmp_path), FACTS, RunLimits(0.1), record=recorded.append)
    report = check_run(step, **observed())
    assert recorded == []

    def record(report):
        assert not (tmp_path / "_SUCCESS").exists()
        recorded.append(report)

    finish_run(report, str(tmp_path), record)
    assert recorded[0]["status"] == "complete"
    with pytest.raises(IncompleteRun):
        check_run(step, **observed(found=11))
    assert recorded[1]["status"] == "failed"


def test_a_run_without_shards_needs_none(tmp_path, shard):
    shard.rename(tmp_path / "embeddings-00000-of-00002.tfrecord")
    finish(tmp_path, 0.1, observed(), formats=())
    assert (tmp_path / "_SUCCESS").exists()


def put_manifest(folder, shard, *uris):
    lines = [LedgerEntry(uri, "1", "s", "m", "p", "float32", "r", 1.0) for uri in uris]
    pq.write_table(entries_to_arrow(lines), folder / f"manifest-{shard}.parquet")


def test_a_run_whose_manifest_lost_a_row_is_not_complete(tmp_path):
    put_manifest(tmp_path, "00000-of-00002", "/1.jpg", "/2.jpg")
    put_manifest(tmp_path, "00001-of-00002", "/3.jpg")
    with pytest.raises(IncompleteRun, match="has 3 rows and must have 4"):
        finish(tmp_path, 0.1, observed(ledger_rows=4), has_manifest=True)
    assert report_of(tmp_path)["status"] == "failed"
    finish(tmp_path, 0.1, observed(ledger_rows=3), has_manifest=True)
    assert report_of(tmp_path)["status"] == "complete"


@pytest.mark.parametrize("rows", [1, 2])
def test_the_step_holds_the_manifest_against_the_rows_that_it_must_have(tmp_path, rows):
    put_manifest(tmp_path, "00000-of-00001", "/1.jpg")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    parts = parts_of(pipeline, found=["/1.jpg"], inferred=[embedding(1, 1.0)], ledger_rows=[rows])
    _ = parts | CheckRun(str(tmp_path), FACTS, RunLimits(0.5), has_manifest=True)
    if rows == 1:
        pipeline.run()
    else:
        with pytest.raises(Exception, match="has 1 rows and must have 2"):
            pipeline.run()


def test_a_table_that_has_not_the_rows_of_the_run_is_not_complete(tmp_path):
    with pytest.raises(IncompleteRun, match="the staging table has 8 rows and must have 9"):
        finish(tmp_path, 0.1, observed(table_rows=8))
    with pytest.raises(IncompleteRun, match="the staging table has 9 rows and must have 8"):
        finish(tmp_path, 0.2, observed(table_rows=9, refused=1, failed=2))
    assert not (tmp_path / "_SUCCESS").exists()
    finish(tmp_path, 0.2, observed(table_rows=8, refused=1, failed=2))
    assert report_of(tmp_path)["counts"]["embedded"] == 8


def test_parquet_files_that_have_not_the_rows_of_the_run_are_not_complete(tmp_path, shard):
    shard.unlink()
    path = tmp_path / "embeddings-00000-of-00001.parquet"
    pq.write_table(pa.table({"uri": ["a"] * 8}), path)
    with pytest.raises(IncompleteRun, match="have 8 rows and must have 9"):
        finish(tmp_path, 0.1, observed(), formats=("parquet",))
    pq.write_table(pa.table({"uri": ["a"] * 9}), path)
    finish(tmp_path, 0.1, observed(), formats=("parquet",))
    assert (tmp_path / "_SUCCESS").exists()


def test_a_night_in_which_no_new_image_may_be_read_is_not_complete(tmp_path):
    forbidden = observed(
        found=1000,
        skipped=990,
        inferred=0,
        failed=10,
        reasons=[("ImageForbidden", 10)],
        quoted=[failure(1, "ImageForbidden")],
    )
    with pytest.raises(TooManyFailures, match=r"none of the 10 images .*objectViewer"):
        finish(tmp_path, 0.1, forbidden)
    finish(tmp_path, 0.1, {**forbidden, "inferred": 1, "skipped": 989})
    assert (tmp_path / "_SUCCESS").exists()


def test_what_fails_in_telling_others_does_not_hide_why_the_run_failed(tmp_path):
    def record(report):
        raise OSError("the table of runs is gone")

    step = CheckRun(str(tmp_path), FACTS, RunLimits(0.1), record=record)
    with pytest.raises(IncompleteRun, match="found 11 images"):
        check_run(step, **observed(found=11))


@pytest.mark.parametrize("query", ["?sig=hunter2", "?name=a b&sig=hunter2", "#hunter2"])
def test_neither_the_report_nor_the_error_of_a_run_holds_the_signature_of_a_url(tmp_path, query):
    uri = f"https://me:hunter2@host/a.jpg{query}"
    bad = Failure(uri, "ReadImages", "ImageForbidden", f"{uri} is answered with 403", "2026-01-01")
    quoted = {"reasons": [("ImageForbidden", 1)], "quoted": [bad]}
    with pytest.raises(TooManyFailures, match=r"for example https://host/a\.jpg\?\.\.\.") as caught:
        finish(tmp_path, 0.0, observed(**quoted))
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in (tmp_path / "run.json").read_text()
