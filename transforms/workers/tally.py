"""Counts of images in this process, for a progress line."""

import threading
from collections import Counter


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
