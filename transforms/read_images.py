"""`ReadImages`: from references to bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.records import DEFAULT_MAX_BYTES, Failure, ImageRef, RawImage
from transforms.sources.image_reading import read_group
from transforms.step_parts.attempt_each import AttemptEach, FailedAttempt, Outcome
from transforms.storage.http_source import HttpSettings
from transforms.workers.breaker import BreakerSettings


class ReadOutcome(NamedTuple):
    """What `ReadImages` returns."""

    ok: beam.PCollection[RawImage]
    failed: beam.PCollection[Failure]
    unchanged: beam.PCollection[ImageRef]
    """Of a reference with a `known_sha256`: its bytes still have it."""


@dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Read each `ImageRef` whole: `ReadOutcome`.

    A missing or forbidden file, one over `max_bytes`, or an http(s) URL whose server fails
    becomes a failure. Passing errors of other storages are tried again; then they, and all
    others, fail the bundle.

    References with twins are read one and all. Those that turn out to hold the same bytes come
    out as one `RawImage` with twins, the others as one of their own.

    Reads overlap: each thread of a worker has `threads` of them under way, which hides the
    latency of a bucket.

    Example:
        >>> read = refs | ReadImages(max_bytes=10_000_000)  # doctest: +SKIP
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: BreakerSettings = BreakerSettings()
    http: HttpSettings = HttpSettings()
    threads: int = 16

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")

    @no_annotations  # See AttemptEach.
    def expand(self, refs: beam.PCollection[ImageRef]) -> ReadOutcome:
        """Return the bytes of each image, the failures, and what needs no more work."""
        outcome: Outcome = refs | "Read" >> AttemptEach(
            stage="ReadImages",
            past_tense="read",
            function=partial(_read, max_bytes=self.max_bytes, http=self.http),
            image_of=lambda ref: ref,
            breaker=self.breaker,
            timing="read-msec",
            threads=self.threads,
            bytes_of=attrgetter("size_bytes"),
        )
        return ReadOutcome(
            ok=outcome.ok | "Images" >> beam.Filter(isinstance, RawImage),
            failed=outcome.failed,
            unchanged=outcome.ok | "Unchanged" >> beam.Filter(isinstance, ImageRef),
        )


def _read(ref: ImageRef, max_bytes: int, http: HttpSettings) -> Iterable[Any]:
    group = read_group(ref, max_bytes, http)
    failed = [FailedAttempt(member, error) for member, error in group.failed]
    return [*group.images, *failed, *group.unchanged]
