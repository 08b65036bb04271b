"""Show how far a run is: one line that renews itself on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

Counts = Mapping[str, int]
"""Counts so far, under `found`, `skipped`, `embedded` and `failed`; missing ones are zero."""

TERMINAL_SECONDS = 0.5
PLAIN_SECONDS = 30.0
#: The first plain line comes early, so that whoever looks into the log sees that it runs.
FIRST_PLAIN_SECONDS = 5.0


def format_progress(
    counts: Counts, seconds: float, rate_counts: Counts, rate_seconds: float
) -> str:
    """Return one line: done of found, rate, failed, time left.

    Args:
        counts: The counts so far.
        seconds: Since the start.
        rate_counts: The counts at the beginning of the span over which the rate is taken.
        rate_seconds: The length of that span.

    Example:
        >>> format_progress({"found": 100, "embedded": 48, "failed": 2}, 10.0, {}, 10.0)
        '50 of 100 images, 5.0 images/s, 2 failed, 0:00:10 elapsed, 0:00:10 left'
    """
    skipped = counts.get("skipped", 0)
    # What is done already would make the rest look quick.
    found = counts.get("found", 0) - skipped
    failed = counts.get("failed", 0)
    done = counts.get("embedded", 0) + failed
    done_in_span = done - rate_counts.get("embedded", 0) - rate_counts.get("failed", 0)
    rate = done_in_span / rate_seconds if rate_seconds > 0 else 0.0
    # While the listing goes on, or where a runner hides its counts, nobody knows.
    known = rate > 0 and found >= done
    left = f"{format_duration((found - done) / rate)} left" if known else "time left unknown"
    skipped_part = f"{skipped:,} skipped, " if skipped else ""
    return (
        f"{done:,} of {found:,} images, {rate:.1f} images/s, {failed:,} failed, {skipped_part}"
        f"{format_duration(seconds)} elapsed, {left}"
    )


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds.

    Example:
        >>> format_duration(3725.4)
        '1:02:05'
    """
    minutes, whole_seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole_seconds:02d}"


class ProgressLine:
    """Shows the counts from a thread of its own while the `with` block runs.

    Example:
        >>> with ProgressLine(lambda: {"found": 2, "embedded": 1}, sys.stderr):  # doctest: +SKIP
        ...     run()
    """

    def __init__(
        self,
        read_counts: Callable[[], Counts],
        stream: TextIO,
        in_words: Callable[[Counts, float, Counts, float], str] = format_progress,
    ) -> None:
        self._read_counts = read_counts
        self._in_words = in_words
        self._stream = stream
        self._terminal = self._stream.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_until_stopped, daemon=True)
        self._shown_width = 0

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._terminal and self._shown_width:
            self._stream.write("\r" + " " * self._shown_width + "\r")
            self._stream.flush()

    def _show_until_stopped(self) -> None:
        started = time.monotonic()
        # The rate counts from the first image that was done: loading the model is no image.
        rate_from: tuple[Counts, float] | None = None
        wait = TERMINAL_SECONDS if self._terminal else FIRST_PLAIN_SECONDS
        while not self._stop.wait(wait):
            wait = TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS
            try:
                counts = self._read_counts()
            except Exception:
                # A runner that does not answer for a moment is no reason to disturb the job.
                continue
            now = time.monotonic()
            if rate_from is None and (counts.get("embedded") or counts.get("failed")):
                rate_from = (counts, now)
            since, moment = rate_from or (counts, now)
            self._show(self._in_words(counts, now - started, since, now - moment))

    def _show(self, line: str) -> None:
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._shown_width))
            self._shown_width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
