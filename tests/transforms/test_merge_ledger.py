import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from transforms.merge_ledger import MergeLedger
from transforms.records import LedgerEntry


def entry(uri, run_id="old", model="model", at=2.0):
    return LedgerEntry(uri, "1", "sha", model, "contract", "float32", run_id, at)


def merged(pipeline, kept, replaced, new):
    parts = {"Kept": kept, "Replaced": replaced, "New": new}
    return (
        tuple(pipeline | name >> beam.Create(entries) for name, entries in parts.items())
        | MergeLedger()
    )


def test_the_snapshot_holds_what_is_kept_what_is_new_and_what_was_not_embedded_again():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        kept = [entry("kept"), entry("embedded", model="other")]
        replaced = [entry("embedded"), entry("failed")]
        # The clock of this worker is behind.
        new = [entry("embedded", "now", at=1.0), entry("first time", "now")]
        expected = [*kept, entry("failed"), *new]
        assert_that(merged(pipeline, kept, replaced, new), equal_to(expected))


def test_the_first_snapshot_is_what_is_new():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(merged(pipeline, [], [], [entry("a", "now")]), equal_to([entry("a", "now")]))
