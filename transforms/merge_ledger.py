"""`MergeLedger`: the snapshot of the ledger after a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.pack_in_buckets import PackInBuckets, unpack
from transforms.records import LedgerEntry
from transforms.selection import age


@dataclass(eq=False)
class MergeLedger(beam.PTransform):
    """Put a ledger together: `(kept, replaced, new)` give every entry that is live now.

    Kept entries stay as they are. Of replaced and new entries of one key the new one counts;
    a replaced one stays where its image was not embedded this time.

    Example:
        >>> live = (selection.kept, selection.replaced, new) | MergeLedger()  # doctest: +SKIP
    """

    @no_annotations
    def expand(
        self, entries: tuple[beam.PCollection[LedgerEntry], ...]
    ) -> beam.PCollection[LedgerEntry]:
        """Return one entry for each row that is live now."""
        # The kept entries go the same way: merged with the others behind the shuffle, they would
        # lie unpacked in the local engine's memory.
        packed = [
            each | f"Key{name}" >> beam.Map(_by_uri, rank) | f"Pack{name}" >> PackInBuckets()
            for rank, (name, each) in enumerate(
                zip(("Kept", "Replaced", "New"), entries, strict=True)
            )
        ]
        return (
            packed
            | "MergeEntries" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "NewestOfEach" >> beam.FlatMapTuple(_newest_of_each)
        )


def _by_uri(entry: LedgerEntry, rank: int) -> tuple[str, tuple[int, LedgerEntry]]:
    return entry.uri, (rank, entry)


def _newest_of_each(_: int, packed: Iterable[bytes]) -> Iterator[LedgerEntry]:
    newest: dict[tuple[str, ...], tuple[int, LedgerEntry]] = {}
    for _uri, (rank, entry) in unpack(packed):
        known = newest.get(entry.key)
        # Whatever the clocks say: what this run has made is what its image is now.
        if known is None or (rank, age(entry)) > (known[0], age(known[1])):
            newest[entry.key] = rank, entry
    return (entry for _rank, entry in newest.values())
