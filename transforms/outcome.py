"""What every step that can fail on one image returns, and how such a step is made.

The only Beam code that the PTransform files share.
"""

import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.shared import Shared

from transforms.errors import ImageError, TooManyFailures
from transforms.records import Failure

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

FAILED = "failed"
OK = "ok"


class Outcome(NamedTuple):
    """The two outputs of a step: what it made, and one `Failure` for each image it could not."""

    ok: beam.PCollection[Any]
    failed: beam.PCollection[Failure]


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a worker gives up: more than `max_ratio` of its first `images` images failed.

    A broken bucket or decoder then costs a thousand images and not a night. The ratio over the
    whole run is checked at its end, whatever the breaker says.
    """

    images: int = 1000
    max_ratio: float = 0.5


class Breaker:
    """Counts the first images of one step in one worker process. Thread-safe."""

    def __init__(self, stage: str, settings: BreakerSettings) -> None:
        self._stage = stage
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = 0
        self._errors: Counter[str] = Counter()
        self._last_error = ""
        self._verdict: str | None = None

    def record(self, error: ImageError | None) -> None:
        """Count one image, and its error if it failed.

        Raises:
            TooManyFailures: most of the first images failed. From then on every call raises, so
                that a runner that tries a bundle again does not get past it.
        """
        if self._seen < self._settings.images:
            with self._lock:
                self._count(error)
        if self._verdict is not None:
            raise TooManyFailures(self._verdict)

    def _count(self, error: ImageError | None) -> None:
        self._seen += 1
        if error is not None:
            self._errors[type(error).__name__] += 1
            self._last_error = f"{type(error).__name__}: {error}"
        # The ratio is judged once, over the first images together: the first few alone may be
        # one bad folder.
        failed = self._errors.total()
        if (
            self._seen == self._settings.images
            and failed > self._settings.max_ratio * self._settings.images
        ):
            reasons = ", ".join(f"{count} {name}" for name, count in self._errors.most_common(3))
            self._verdict = (
                f"{failed} of the first {self._settings.images} images of a worker failed in "
                f"{self._stage} ({reasons}), so the job stops; the last one: {self._last_error}"
            )


class ProcessTally:
    """Counts of images in this process since it started, for a progress line. Thread-safe.

    Only for showing: retried bundles count twice. The counts of run.json come from the graph.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Add to one count."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> dict[str, int]:
        """Return all counts as they stand."""
        with self._lock:
            return dict(self._counts)


#: Of the process that this module is loaded in.
PROCESS_TALLY = ProcessTally()


@dataclass(eq=False)
class AttemptEach(beam.PTransform, Generic[InputT, OutputT]):
    """Apply a function to each element; an `ImageError` becomes a `Failure`.

    Any other exception fails the bundle. Counts `images-<past_tense>`, `failed-<error class>`
    and the distribution `<verb>-msec` in the namespace of the stage.
    """

    stage: str
    """The name of the step in dead letters and metrics, such as ReadImages."""
    verb: str
    past_tense: str
    function: Callable[[InputT], OutputT]
    uri_of: Callable[[InputT], str]
    breaker: BreakerSettings = BreakerSettings()

    @no_annotations
    def expand(self, elements: beam.PCollection[InputT]) -> Outcome:
        """Return the results and the failures."""
        outputs = elements | "Attempt" >> beam.ParDo(_AttemptFn(self)).with_outputs(FAILED, main=OK)
        return Outcome(ok=outputs[OK], failed=outputs[FAILED])


class _AttemptFn(beam.DoFn):
    def __init__(self, step: AttemptEach[Any, Any]) -> None:
        self._stage = step.stage
        self._past_tense = step.past_tense
        self._function = step.function
        self._uri_of = step.uri_of
        self._breaker_settings = step.breaker
        self._shared_breaker = Shared()
        self._done = Metrics.counter(step.stage, f"images-{step.past_tense}")
        self._milliseconds = Metrics.distribution(step.stage, f"{step.verb}-msec")

    def setup(self) -> None:
        self._breaker = self._shared_breaker.acquire(
            lambda: Breaker(self._stage, self._breaker_settings)
        )

    def process(self, element: Any) -> Iterator[Any]:
        started = time.monotonic()
        try:
            result = self._function(element)
        except ImageError as error:
            Metrics.counter(self._stage, f"failed-{type(error).__name__}").inc()
            PROCESS_TALLY.add("failed")
            yield TaggedOutput(FAILED, make_failure(self._uri_of(element), self._stage, error))
            self._breaker.record(error)
            return
        self._milliseconds.update(int((time.monotonic() - started) * 1000))
        self._done.inc()
        PROCESS_TALLY.add(self._past_tense)
        self._breaker.record(None)
        yield result


#: Longer messages are cut: they may quote what a hostile file says of itself.
MAX_MESSAGE_CHARACTERS = 500


def make_failure(uri: str, stage: str, error: ImageError) -> Failure:
    """Return the dead letter of one image, stamped with the present time."""
    message = " ".join(str(error).split())
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 3] + "..."
    return Failure(
        uri=uri,
        stage=stage,
        error=type(error).__name__,
        message=message,
        failed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
