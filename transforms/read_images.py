"""`ReadImages`: from references to bytes."""

from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.attempt_each import AttemptEach, Outcome
from transforms.breaker import BreakerSettings
from transforms.http_source import HttpSettings
from transforms.image_reading import read_image
from transforms.records import DEFAULT_MAX_BYTES, ImageRef


@dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Read each `ImageRef` whole: `Outcome[RawImage]`.

    A missing or forbidden file, one over `max_bytes`, or an http(s) URL whose server fails
    becomes a failure. Passing errors of other storages are tried again; then they, and all
    others, fail the bundle.

    Example:
        >>> read = refs | ReadImages(max_bytes=10_000_000)  # doctest: +SKIP
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: BreakerSettings = BreakerSettings()
    http: HttpSettings = HttpSettings()

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")

    @no_annotations  # See AttemptEach.
    def expand(self, refs: beam.PCollection[ImageRef]) -> Outcome:
        """Return the bytes of each image, and the failures."""
        outcome: Outcome = refs | "Read" >> AttemptEach(
            stage="ReadImages",
            past_tense="read",
            function=partial(read_image, max_bytes=self.max_bytes, http=self.http),
            uri_of=attrgetter("uri"),
            breaker=self.breaker,
            timing="read-msec",
        )
        return outcome
