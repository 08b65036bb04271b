"""Stop a worker early when most of its first images fail."""

import threading
from collections import Counter
from dataclasses import dataclass

from transforms.errors import ImageError, TooManyFailures
from transforms.workers.worker_log import without_queries


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
            self._last_error = f"{type(error).__name__}: {without_queries(str(error))}"
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


_lock = threading.Lock()
_breakers: dict[str, Breaker] = {}


def breaker_of_process(key: str, stage: str, settings: BreakerSettings) -> Breaker:
    """Return the one breaker that all threads of this process share under `key`.

    It lives as long as the process: a runner that tries a failed bundle again builds the step
    anew, and the breaker must not forget what it has seen.
    """
    with _lock:
        if key not in _breakers:
            _breakers[key] = Breaker(stage, settings)
        return _breakers[key]
