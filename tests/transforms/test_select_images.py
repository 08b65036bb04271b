import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to

from transforms import select_images
from transforms.formats.embedding_table import Provenance
from transforms.records import ImageRef, LedgerEntry, Origin
from transforms.select_images import SelectImages
from transforms.step_parts.pack_in_buckets import unpack
from transforms.storage.file_listing import list_files
from transforms.workers.tally import PROCESS_TALLY

MADE_BY = Provenance("handle", "model", "contract", "float32")


def ref(name, generation="1"):
    return ImageRef(f"/photos/{name}", 5, origin=Origin(generation))


def entry(name, generation="1", model="model", folder="/photos"):
    uri = f"{folder}/{name}"
    return LedgerEntry(uri, generation, "s", model, "contract", "float32", "run", 1.0)


def select(pipeline, refs, ledgers, **settings):
    refs = pipeline | "Refs" >> beam.Create(refs)
    ledgers = tuple(
        pipeline | f"Ledger{number}" >> beam.Create(entries)
        for number, entries in enumerate(ledgers)
    )
    return (refs, ledgers) | SelectImages(MADE_BY, ("/photos",), **settings)


def assert_selection(selection, **expected):
    for name, pcollection in selection._asdict().items():
        nothing = [True] if name == "complete" else []
        assert_that(pcollection, equal_to(expected.get(name, nothing)), label=name)


REFS = [ref("same.jpg"), ref("changed.jpg", "2"), ref("new.jpg"), ref("other_model.jpg")]
LEDGER = [
    entry("same.jpg"),
    entry("changed.jpg"),
    entry("other_model.jpg", model="other"),
    entry("gone.jpg"),
    entry("gone.jpg", model="other"),
    entry("elsewhere.jpg", folder="/elsewhere"),
]


def test_only_what_is_new_or_changed_is_to_be_done():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_selection(
            select(pipeline, REFS, [LEDGER]),
            todo=REFS[1:],
            skipped=["/photos/same.jpg"],
            gone=[LEDGER[3]],
            kept=[LEDGER[0], *LEDGER[2:]],
            replaced=[LEDGER[1]],
        )


def test_pruning_drops_the_entries_of_what_is_gone_and_no_others():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        selection = select(pipeline, REFS, [LEDGER], prune=True)
        assert_that(selection.gone, equal_to([LEDGER[3]]), label="gone")
        assert_that(selection.kept, equal_to([LEDGER[0], LEDGER[2], *LEDGER[4:]]), label="kept")


def test_with_a_folder_and_a_table_both_must_have_the_image():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        table = [entry("same.jpg"), entry("only_in_the_table.jpg")]
        assert_selection(
            select(pipeline, [*REFS[:2], ref("new.jpg")], [[entry("same.jpg")], table]),
            todo=[REFS[1], ref("new.jpg")],
            skipped=["/photos/same.jpg"],
            gone=[entry("only_in_the_table.jpg")],
            kept=[entry("same.jpg")],
        )


def test_with_an_empty_ledger_everything_is_to_be_done():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_selection(select(pipeline, REFS, [[]]), todo=REFS)


def test_an_empty_listing_keeps_the_ledger():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        selection = select(pipeline, [], [LEDGER])
        assert_that(selection.kept, equal_to(LEDGER))


def test_what_is_skipped_and_gone_is_counted():
    before = PROCESS_TALLY.snapshot().get("skipped", 0)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    select(pipeline, REFS, [LEDGER])
    metrics = pipeline.run().metrics().query(MetricsFilter().with_namespace("SelectImages"))
    assert {metric.key.metric.name: metric.committed for metric in metrics["counters"]} == {
        "images-skipped": 1,
        "images-gone": 1,
    }
    assert PROCESS_TALLY.snapshot()["skipped"] == before + 1


def test_without_a_ledger_there_is_nothing_to_select_by():
    with pytest.raises(ValueError, match="at least one"):
        select(beam.Pipeline(runner="FnApiRunner"), REFS, [])


def test_an_entry_that_the_runner_loses_fails_the_job(monkeypatch):
    """Beam's engine with several threads has done so; here the entry of one image is lost."""

    def lossy(packed):
        return [(uri, each) for uri, each in unpack(packed) if uri != "/photos/gone.jpg"]

    monkeypatch.setattr(select_images, "unpack", lossy)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    select(pipeline, REFS, [LEDGER])
    with pytest.raises(Exception, match="has 6 entries, but the runner handed on 4"):
        pipeline.run()


def test_an_image_that_is_listed_under_another_path_is_not_gone(tmp_path):
    """A linked folder that appears leads to the files first, and each folder is walked once."""
    for name in ("b/there.jpg", "b/deleted.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "b/dangling.jpg").symlink_to("nowhere")
    ledger = [
        LedgerEntry(file.ref.uri, "1", "s", "model", "contract", "float32", "run", 1.0)
        for file in list_files(str(tmp_path))
    ]
    assert len(ledger) == 3
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b/deleted.jpg").unlink()
    refs = [file.ref for file in list_files(str(tmp_path))]
    assert {ref.uri for ref in refs} == {f"{tmp_path}/a/{n}.jpg" for n in ("there", "dangling")}
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listed = pipeline | "Refs" >> beam.Create(refs)
        known = pipeline | "Ledger" >> beam.Create(ledger)
        selection = (listed, (known,)) | SelectImages(MADE_BY, (str(tmp_path),), prune=True)
        gone = selection.gone | beam.Map(lambda entry: entry.uri)
        assert_that(gone, equal_to([f"{tmp_path}/b/deleted.jpg"]), label="gone")
        kept = [entry for entry in ledger if "deleted" not in entry.uri]
        assert_that(selection.kept, equal_to(kept), label="kept")
