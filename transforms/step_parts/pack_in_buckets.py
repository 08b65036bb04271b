"""`PackInBuckets`: records for a shuffle, so small that a million of them fit in little memory."""

import pickle
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.windowed_value import WindowedValue

#: Enough that of a hundred million keys 24,000 share a bucket, which fit in memory at once.
BUCKETS = 4096

#: So many records wait in one worker thread until they are packed: 12 for each bucket.
MAX_WAITING = 50_000

#: So many records are packed into one element at most, where many have the same key.
MAX_PACKED = 1_000


@dataclass(eq=False)
class PackInBuckets(beam.PTransform):
    """Put pairs of a text key and a record into buckets: `(bucket, bytes)`, to be grouped.

    Behind a GroupByKey, `unpack` gives back the keys and records of one bucket. All records of a
    key are in one bucket, which is the same on every machine. A bucket holds many keys: who
    unpacks it sorts by key in a dictionary.

    Why: Beam's local engine keeps all that it shuffles in memory, in half a dozen copies, and
    besides needs about a kilobyte for each key. What many records have in common, such as paths
    and fingerprints, is compressed away here.

    Example:
        >>> grouped = pairs | PackInBuckets() | beam.GroupByKey()  # doctest: +SKIP
    """

    @no_annotations
    def expand(
        self, pairs: beam.PCollection[tuple[str, Any]]
    ) -> beam.PCollection[tuple[int, bytes]]:
        """Return the packed pairs, each with its bucket."""
        return pairs | "Pack" >> beam.ParDo(_PackFn())


@dataclass(eq=False)
class SpreadByUri(beam.PTransform):
    """Hand the records of several collections to all workers, as one collection.

    Does what `beam.Reshuffle` does at a kilobyte for each record. Each record has a `uri`, and
    those of one URI stay together.

    Example:
        >>> refs = (refs, more_refs) | SpreadByUri()  # doctest: +SKIP
    """

    @no_annotations  # Beam warns of the tuple.
    def expand(self, parts: tuple[beam.PCollection[Any], ...]) -> beam.PCollection[Any]:
        """Return the records of all parts."""
        packed = [
            part
            | f"KeyByUri{number}" >> beam.Map(lambda record: (record.uri, record))
            | f"PackInBuckets{number}" >> PackInBuckets()
            for number, part in enumerate(parts)
        ]
        return (
            packed
            | "MergeParts" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "Unpack"
            >> beam.FlatMapTuple(lambda _, packed: (record for _, record in unpack(packed)))
        )


def unpack(packed: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and records of one bucket, one after the other, in any order."""
    for compressed in packed:
        yield from pickle.loads(zlib.decompress(compressed))


def _bucket(key: str) -> int:
    return zlib.crc32(key.encode()) % BUCKETS


def _packed(pairs: list[tuple[str, Any]]) -> bytes:
    return zlib.compress(pickle.dumps(pairs), level=1)


class _PackFn(beam.DoFn):
    def __init__(self) -> None:
        self._waiting: defaultdict[int, list[tuple[str, Any]]] = defaultdict(list)
        self._count = 0

    def start_bundle(self) -> None:
        self._waiting.clear()
        self._count = 0

    def process(self, pair: tuple[str, Any]) -> Iterator[tuple[int, bytes]]:
        bucket = _bucket(pair[0])
        pairs = self._waiting[bucket]
        pairs.append(pair)
        self._count += 1
        if len(pairs) == MAX_PACKED:
            self._count -= len(pairs)
            yield bucket, _packed(self._waiting.pop(bucket))
        elif self._count == MAX_WAITING:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for element in self._flush():
            yield GlobalWindows.windowed_value_at_end_of_window(element)

    def _flush(self) -> Iterator[tuple[int, bytes]]:
        waiting, self._waiting, self._count = self._waiting, defaultdict(list), 0
        for bucket, pairs in waiting.items():
            yield bucket, _packed(pairs)
