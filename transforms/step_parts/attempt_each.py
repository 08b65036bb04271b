"""`AttemptEach`: a step that can fail on one image without failing on the others."""

import datetime
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.windowed_value import WindowedValue

from transforms.errors import ImageError
from transforms.records import CarriedValue, Failure, Origin
from transforms.workers.breaker import BreakerSettings, breaker_of_process
from transforms.workers.prefetch import Prefetch
from transforms.workers.tally import PROCESS_TALLY
from transforms.workers.worker_log import log_event

InputT = TypeVar("InputT")

FAILED = "failed"
OK = "ok"


class Outcome(NamedTuple):
    """The two outputs of a step: what it made, and one `Failure` for each image it could not."""

    ok: beam.PCollection[Any]
    failed: beam.PCollection[Failure]


class Twinless(Protocol):
    """What a failure says of an image: every record up to `ImageInfo`, and `Twin`."""

    @property
    def uri(self) -> str:
        """Where it lies."""

    @property
    def origin(self) -> Origin:
        """What goes along with it."""


class Image(Twinless, Protocol):
    """An image and those that hold the same bytes: every record up to `ImageInfo`."""

    @property
    def twins(self) -> Sequence[Twinless]:
        """Other images that fail as this one does."""


class FailedAttempt(NamedTuple):
    """One image that failed while others of the same element did not."""

    image: Twinless
    error: ImageError


@dataclass(eq=False)
class AttemptEach(beam.PTransform, Generic[InputT]):
    """Apply a function to each element, as FlatMap does; an `ImageError` becomes a `Failure`.

    An error that the function raises is the failure of the element's image and of each of its
    twins; one that it returns as a `FailedAttempt` is that image's alone. Any other exception
    fails the bundle. Counts `images-<past_tense>` and `failed-<error class>` in the namespace of
    the stage, and times successes and failures. A bundle with failures leaves one line in the log.

    With several threads the function already runs for the elements behind, in a pool of each
    worker thread, so that waiting for one overlaps with waiting for others. The results come in
    the order of the elements, within the bundle. `transforms.workers.prefetch` bounds the memory.
    """

    stage: str
    """The name of the step in dead letters and metrics, such as ReadImages."""
    past_tense: str
    """What becomes of an image here, for the counter: read makes it images-read."""
    function: Callable[[InputT], Iterable[Any]]
    """Gives results and `FailedAttempt`s. With several threads it must be safe in them."""
    image_of: Callable[[InputT], Image]
    breaker: BreakerSettings = BreakerSettings()
    timing: str | None = None
    """The distribution that the milliseconds of each call go to, such as read-msec."""
    threads: int = 1
    ahead: int = 0
    """How many elements at most the threads are at, or are done with; 0: four a thread."""
    bytes_of: Callable[[InputT], int | None] = lambda element: None
    """What the results of an element will hold in memory, for the threads; None: unknown."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, elements: beam.PCollection[InputT]) -> Outcome:
        """Return the results and the failures."""
        outputs = elements | "Attempt" >> beam.ParDo(_AttemptFn(self)).with_outputs(FAILED, main=OK)
        return Outcome(ok=outputs[OK], failed=outputs[FAILED])


class _Placed(NamedTuple):
    """An element and where in time its results belong."""

    element: Any
    timestamp: Any
    window: Any


class _Attempted(NamedTuple):
    outcomes: list[Any]
    milliseconds: int


class _AttemptFn(beam.DoFn):
    def __init__(self, step: AttemptEach[Any]) -> None:
        self._stage = step.stage
        self._past_tense = step.past_tense
        self._function = step.function
        self._image_of = step.image_of
        self._threads = step.threads
        self._ahead = step.ahead
        self._bytes_of = step.bytes_of
        self._breaker_settings = step.breaker
        self._breaker_key = uuid.uuid4().hex
        self._done = Metrics.counter(step.stage, f"images-{step.past_tense}")
        self._milliseconds = Metrics.distribution(step.stage, step.timing) if step.timing else None

    def setup(self) -> None:
        self._breaker = breaker_of_process(self._breaker_key, self._stage, self._breaker_settings)
        self._prefetch: Prefetch[_Placed, _Attempted] = Prefetch(
            self._attempt, self._threads, max_items=self._ahead
        )

    def start_bundle(self) -> None:
        # A bundle that failed elsewhere has left some behind.
        self._prefetch.cancel()
        self._made_in_bundle = 0
        self._failed_in_bundle: Counter[str] = Counter()

    def process(
        self,
        element: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        placed = _Placed(element, timestamp, window)
        for before, attempted in self._prefetch.add(placed, self._bytes_of(element)):
            yield from self._outputs(before, attempted)

    def finish_bundle(self) -> Iterator[Any]:
        for placed, attempted in self._prefetch.rest():
            yield from self._outputs(placed, attempted)
        if self._failed_in_bundle:
            log_event(
                logging.WARNING,
                "images-failed",
                step=self._stage,
                failed=dict(self._failed_in_bundle),
                **{self._past_tense: self._made_in_bundle},
            )

    def teardown(self) -> None:
        self._prefetch.close()

    def _attempt(self, placed: _Placed) -> _Attempted:
        """Call the function; in a thread of the pool, where metrics and the breaker are not."""
        started = time.monotonic()
        try:
            outcomes = list(self._function(placed.element))
        except ImageError as error:
            image = self._image_of(placed.element)
            outcomes = [FailedAttempt(each, error) for each in (image, *image.twins)]
        return _Attempted(outcomes, int((time.monotonic() - started) * 1000))

    def _outputs(self, placed: _Placed, attempted: _Attempted) -> Iterator[Any]:
        if self._milliseconds is not None:
            self._milliseconds.update(attempted.milliseconds)
        for outcome in attempted.outcomes:
            if isinstance(outcome, FailedAttempt):
                image, error = outcome
                Metrics.counter(self._stage, f"failed-{type(error).__name__}").inc()
                PROCESS_TALLY.add("failed")
                self._failed_in_bundle[type(error).__name__] += 1
                failure = make_failure(image.uri, self._stage, error, image.origin.carried)
                yield TaggedOutput(FAILED, _at(placed, failure))
                self._breaker.record(error)
            else:
                self._done.inc()
                PROCESS_TALLY.add(self._past_tense)
                self._made_in_bundle += 1
                yield _at(placed, outcome)
                self._breaker.record(None)


def _at(placed: _Placed, output: object) -> WindowedValue:
    return WindowedValue(output, placed.timestamp, (placed.window,))


#: Longer messages are cut: they may quote what a hostile file says of itself.
MAX_MESSAGE_CHARACTERS = 500


def make_failure(
    uri: str, stage: str, error: ImageError, carried: tuple[CarriedValue, ...] = ()
) -> Failure:
    """Return the dead letter of one image, stamped with the present time."""
    message = " ".join(str(error).split())
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 3] + "..."
    return Failure(
        # A URL with a password in it is refused for that reason, and can never be tried again.
        uri=re.sub(r"^(https?://)[^/?#]*@", r"\1", uri, flags=re.IGNORECASE),
        stage=stage,
        error=type(error).__name__,
        message=message,
        failed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        carried=carried,
    )
