"""`AttemptEach`: a step that can fail on one image without failing on the others."""

import datetime
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.breaker import BreakerSettings, breaker_of_process
from transforms.errors import ImageError
from transforms.records import Failure
from transforms.tally import PROCESS_TALLY

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

FAILED = "failed"
OK = "ok"


class Outcome(NamedTuple):
    """The two outputs of a step: what it made, and one `Failure` for each image it could not."""

    ok: beam.PCollection[Any]
    failed: beam.PCollection[Failure]


@dataclass(eq=False)
class AttemptEach(beam.PTransform, Generic[InputT, OutputT]):
    """Apply a function to each element; an `ImageError` becomes a `Failure`.

    Any other exception fails the bundle. Counts `images-<past_tense>` and
    `failed-<error class>` in the namespace of the stage, and times successes and failures.
    """

    stage: str
    """The name of the step in dead letters and metrics, such as ReadImages."""
    past_tense: str
    """What becomes of an image here, for the counter: read makes it images-read."""
    function: Callable[[InputT], OutputT]
    uri_of: Callable[[InputT], str]
    breaker: BreakerSettings = BreakerSettings()
    timing: str | None = None
    """The distribution that the milliseconds of each call go to, such as read-msec."""

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
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
        self._breaker_key = uuid.uuid4().hex
        self._done = Metrics.counter(step.stage, f"images-{step.past_tense}")
        self._milliseconds = Metrics.distribution(step.stage, step.timing) if step.timing else None

    def setup(self) -> None:
        self._breaker = breaker_of_process(self._breaker_key, self._stage, self._breaker_settings)

    def process(self, element: Any) -> Iterator[Any]:
        started = time.monotonic()
        failure: ImageError | None = None
        try:
            result = self._function(element)
        except ImageError as error:
            failure = error
        finally:
            if self._milliseconds is not None:
                self._milliseconds.update(int((time.monotonic() - started) * 1000))
        if failure is None:
            self._done.inc()
            PROCESS_TALLY.add(self._past_tense)
            yield result
        else:
            Metrics.counter(self._stage, f"failed-{type(failure).__name__}").inc()
            PROCESS_TALLY.add("failed")
            yield TaggedOutput(FAILED, make_failure(self._uri_of(element), self._stage, failure))
        # Outside of the except clause: what stops the job is not this one image's error.
        self._breaker.record(failure)


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
