"""So much memory that threads of a process share for what is large and short-lived."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Lets threads hold memory as long as all of them together stay within a total.

    Thread-safe. Who comes first is served first, so that many small amounts do not keep a large
    one waiting for ever. An amount above the total waits until nothing else is held.

    Example:
        >>> budget = MemoryBudget(total_bytes=100)
        >>> with budget.hold(60), budget.hold(40):
        ...     pass
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = self._free = total_bytes
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, byte_count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them within the block."""
        amount = min(byte_count, self._total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify()
