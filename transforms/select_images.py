"""`SelectImages`: from what is there and what earlier runs have done to what is to be done."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import IncompleteRun
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.selection import Scope, choose
from transforms.records import IMAGE_EXTENSIONS, ImageRef, LedgerEntry
from transforms.step_parts.count_all import CountAll
from transforms.step_parts.pack_in_buckets import PackInBuckets, unpack
from transforms.workers.tally import PROCESS_TALLY


class Selection(NamedTuple):
    """What `SelectImages` returns; every reference is in `todo` or in `skipped`."""

    todo: beam.PCollection[ImageRef]
    """To be embedded; with a `known_sha256` where the bytes alone can tell whether they are new."""
    skipped: beam.PCollection[str]
    """URIs that every ledger has already."""
    gone: beam.PCollection[LedgerEntry]
    """Entries of the job's provenance whose images are no longer in the inputs: one for each
    URI, that of the last ledger that has it."""
    kept: beam.PCollection[LedgerEntry]
    """Entries of the first ledger that stay live."""
    replaced: beam.PCollection[LedgerEntry]
    """Entries of the first ledger that stay live unless their image is embedded in this run."""
    complete: beam.PCollection[bool]
    """One True, once it is certain that the shuffle has handed on every entry of the ledgers."""


@dataclass(eq=False)
class SelectImages(beam.PTransform):
    """Leave out the images that earlier runs have embedded, and find those that are gone.

    Takes `(refs, ledgers)`: one reference for each URI, and one or more collections of
    `LedgerEntry`. Joined by URI, so neither needs to fit in memory. What decides about one URI
    is `selection.choose`.

    Example:
        >>> selection = (refs, (ledger,)) | SelectImages(made_by, ("/photos",))  # doctest: +SKIP
    """

    provenance: Provenance
    locations: tuple[str, ...] = ()
    """The inputs, as `ListImages` takes them: where a missing image is gone."""
    prune: bool = False
    """Drop the entries of images that are gone, instead of keeping them."""
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    """Which files of a folder count as images."""

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(
        self,
        inputs: tuple[beam.PCollection[ImageRef], tuple[beam.PCollection[LedgerEntry], ...]],
    ) -> Selection:
        """Return what becomes of each URI."""
        refs, ledgers = inputs
        if not ledgers:
            raise ValueError("there is no ledger to select by; give at least one")
        keyed = [refs | "KeyRefs" >> beam.Map(_by_uri, REF)]
        for number, ledger in enumerate(ledgers):
            keyed.append(ledger | f"KeyLedger{number}" >> beam.Map(_by_uri, number))
        packed = [
            each | f"PackInBuckets{side}" >> PackInBuckets() for side, each in enumerate(keyed)
        ]
        chosen = (
            packed
            | "RefsAndLedgers" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "Choose"
            >> beam.ParDo(_ChooseFn(self, len(ledgers))).with_outputs(
                SKIPPED, GONE, KEPT, REPLACED, JOINED, main=TODO
            )
        )
        # That no reference is lost shows in the counts of the run.
        complete = (
            tuple(ledgers)
            | "CountEntries" >> CountAll()
            | "CheckNothingLost"
            >> beam.Map(
                _check_nothing_lost,
                AsSingleton(chosen[JOINED] | "SumJoined" >> beam.CombineGlobally(sum)),
            )
        )
        return Selection(
            chosen[TODO],
            chosen[SKIPPED],
            chosen[GONE],
            chosen[KEPT],
            chosen[REPLACED],
            complete,
        )


REF = -1
TODO = "todo"
SKIPPED = "skipped"
GONE = "gone"
KEPT = "kept"
REPLACED = "replaced"
JOINED = "joined"


def _by_uri(
    record: ImageRef | LedgerEntry, side: int
) -> tuple[str, tuple[int, ImageRef | LedgerEntry]]:
    return record.uri, (side, record)


def _check_nothing_lost(read: int, joined: int) -> bool:
    if read != joined:
        raise IncompleteRun(
            f"the ledger has {read:,} entries, but the runner handed on {joined:,}; run the job "
            "again, on another runner if it happens again"
        )
    return True


class _ChooseFn(beam.DoFn):
    def __init__(self, step: SelectImages, ledgers: int) -> None:
        self._provenance = step.provenance
        self._prune = step.prune
        self._locations = step.locations
        self._extensions = step.extensions
        self._ledgers = range(ledgers)
        self._skipped = Metrics.counter("SelectImages", "images-skipped")
        self._gone = Metrics.counter("SelectImages", "images-gone")

    def setup(self) -> None:
        # Where the inputs are listed, since what a name means depends on what lies there.
        self._scope = Scope(self._locations, self._extensions)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        refs: dict[str, ImageRef] = {}
        known: dict[str, list[list[LedgerEntry]]] = {}
        joined = 0
        for uri, (side, record) in unpack(element[1]):
            if side == REF:
                refs[uri] = record
            else:
                known.setdefault(uri, [[] for _ in self._ledgers])[side].append(record)
                joined += 1
        yield TaggedOutput(JOINED, joined)
        nothing: list[list[LedgerEntry]] = [[] for _ in self._ledgers]
        for uri in refs.keys() | known.keys():
            yield from self._choose(uri, refs.get(uri), known.get(uri, nothing))

    def _choose(
        self, uri: str, ref: ImageRef | None, entries: list[list[LedgerEntry]]
    ) -> Iterator[Any]:
        choice = choose(
            ref,
            entries,
            self._provenance,
            in_scope=ref is None and self._scope.misses(uri),
            prune=self._prune,
        )
        if choice.todo:
            yield choice.todo
        if choice.skipped:
            self._skipped.inc()
            PROCESS_TALLY.add("skipped")
            yield TaggedOutput(SKIPPED, uri)
        if choice.gone:
            self._gone.inc()
            yield TaggedOutput(GONE, choice.gone)
        for entry in choice.kept:
            yield TaggedOutput(KEPT, entry)
        if choice.replaced:
            yield TaggedOutput(REPLACED, choice.replaced)
