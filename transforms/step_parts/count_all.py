"""`CountAll`: how many elements there are in several collections together."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.windowed_value import WindowedValue

from transforms.errors import IncompleteRun


@dataclass(eq=False)
class CountAll(beam.PTransform):
    """Count the elements of a tuple of collections: one number.

    The elements are counted where they are made. To merge the collections first would make
    Beam's local engine keep all of them in memory, and `combiners.Count` takes four times as
    long.

    Example:
        >>> number = (images, failures) | CountAll()  # doctest: +SKIP
    """

    @no_annotations  # Beam warns of the tuple.
    def expand(self, collections: tuple[beam.PCollection[Any], ...]) -> beam.PCollection[int]:
        """Return the one number."""
        counts = [
            each | f"Count{number}" >> beam.ParDo(_CountFn())
            for number, each in enumerate(collections)
        ]
        return counts | "MergeCounts" >> beam.Flatten() | "Sum" >> beam.CombineGlobally(sum)


class _CountFn(beam.DoFn):
    def __init__(self) -> None:
        self._count = 0

    def start_bundle(self) -> None:
        self._count = 0

    def process(self, _: Any) -> None:
        self._count += 1

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield GlobalWindows.windowed_value(self._count)


def require_all_handed_on(what: str, listed: int, handed_on: int) -> None:
    """Check that a runner has lost nothing on its way between two steps.

    Raises:
        IncompleteRun: the two counts differ.

    Example:
        >>> require_all_handed_on("references", listed=3, handed_on=3)
    """
    if listed != handed_on:
        raise IncompleteRun(
            f"listed {listed:,} {what}, but the runner handed on {handed_on:,}; run the job "
            "again, on another runner if it happens again"
        )
