"""`MergeLedger`: the snapshot of the ledger after a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.ledgers.ledger import age
from transforms.records import LedgerEntry
from transforms.step_parts.count_all import CountAll
from transforms.step_parts.pack_in_buckets import PackInBuckets, unpack


class Snapshot(NamedTuple):
    """What `MergeLedger` returns."""

    entries: beam.PCollection[LedgerEntry]
    """One for each row that is live now."""
    rows: beam.PCollection[int]
    """One number: so many entries there must be. It is made of what came in, before anything
    could be lost."""


@dataclass(eq=False)
class MergeLedger(beam.PTransform):
    """Put a ledger together: `(kept, replaced, new)` give every entry that is live now.

    Kept entries stay as they are. Of replaced and new entries of one key the new one counts;
    a replaced one stays where its image was not embedded this time.

    Example:
        >>> merged = (selection.kept, selection.replaced, new) | MergeLedger()  # doctest: +SKIP
    """

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, entries: tuple[beam.PCollection[LedgerEntry], ...]) -> Snapshot:
        """Return one entry for each row that is live now."""
        # The kept entries go the same way: merged with the others behind the shuffle, they would
        # lie unpacked in the local engine's memory.
        packed = [
            each | f"Key{name}" >> beam.Map(_by_uri, rank) | f"Pack{name}" >> PackInBuckets()
            for rank, (name, each) in enumerate(
                zip(("Kept", "Replaced", "New"), entries, strict=True)
            )
        ]
        merged = (
            packed
            | "MergeEntries" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "NewestOfEach"
            >> beam.FlatMapTuple(_newest_of_each).with_outputs(SUPERSEDED, main=ENTRIES)
        )
        superseded = merged[SUPERSEDED] | "SumSuperseded" >> beam.CombineGlobally(sum)
        rows = (
            tuple(entries)
            | "CountEntries" >> CountAll()
            | "Rows" >> beam.Map(lambda came, less: came - less, AsSingleton(superseded))
        )
        return Snapshot(merged[ENTRIES], rows)


ENTRIES = "entries"
SUPERSEDED = "superseded"


def _by_uri(entry: LedgerEntry, rank: int) -> tuple[str, tuple[int, LedgerEntry]]:
    return entry.uri, (rank, entry)


def _newest_of_each(_: int, packed: Iterable[bytes]) -> Iterator[Any]:
    newest: dict[tuple[str, ...], tuple[int, LedgerEntry]] = {}
    count = 0
    for _uri, (rank, entry) in unpack(packed):
        count += 1
        known = newest.get(entry.key)
        # Whatever the clocks say: what this run has made is what its image is now.
        if known is None or (rank, age(entry)) > (known[0], age(known[1])):
            newest[entry.key] = rank, entry
    yield TaggedOutput(SUPERSEDED, count - len(newest))
    yield from (entry for _rank, entry in newest.values())
