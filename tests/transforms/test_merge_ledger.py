import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from transforms import merge_ledger
from transforms.merge_ledger import MergeLedger
from transforms.records import LedgerEntry
from transforms.step_parts.pack_in_buckets import unpack


def entry(uri, run_id="old", model="model", at=2.0):
    return LedgerEntry(uri, "1", "sha", model, "contract", "float32", run_id, at)


def assert_snapshot(kept, replaced, new, expected):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        snapshot = merged(pipeline, kept, replaced, new)
        assert_that(snapshot.entries, equal_to(expected))
        assert_that(snapshot.rows, equal_to([len(expected)]), label="Rows")


def merged(pipeline, kept, replaced, new):
    parts = {"Kept": kept, "Replaced": replaced, "New": new}
    return (
        tuple(pipeline | name >> beam.Create(entries) for name, entries in parts.items())
        | MergeLedger()
    )


def test_the_snapshot_holds_what_is_kept_what_is_new_and_what_was_not_embedded_again():
    kept = [entry("kept"), entry("embedded", model="other")]
    replaced = [entry("embedded"), entry("failed")]
    # The clock of this worker is behind.
    new = [entry("embedded", "now", at=1.0), entry("first time", "now")]
    assert_snapshot(kept, replaced, new, [*kept, entry("failed"), *new])


def test_the_first_snapshot_is_what_is_new():
    assert_snapshot([], [], [entry("a", "now")], [entry("a", "now")])


def test_what_the_runner_loses_is_missing_in_the_entries_and_not_in_their_number(monkeypatch):
    """Beam's engine with several threads has done so; here a bucket loses its last entry."""
    monkeypatch.setattr(merge_ledger, "unpack", lambda packed: list(unpack(packed))[:-1])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        snapshot = merged(pipeline, [entry("a")], [], [])
        assert_that(snapshot.entries, equal_to([]))
        assert_that(snapshot.rows, equal_to([1]), label="Rows")
