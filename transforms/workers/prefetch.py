"""Run a function in threads, a bounded stretch ahead of whoever takes the results."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: What is read ahead of whoever takes it, at most. 128 MiB holds some dozen photographs.
MAX_BYTES = 128 * 2**20

#: So much an item counts whose size nobody knows: sixteen of these fill the memory.
UNKNOWN_BYTES = MAX_BYTES // 16

#: Items under way for each thread, so that a slow one does not stop those behind it.
ITEMS_PER_THREAD = 4


class Prefetch(Generic[ItemT, ResultT]):
    """Applies a function to items in threads; the results come in the order of the items.

    At most `max_items` (0: four a thread) are under way, finished ones that nobody has taken
    included, and items of at most `max_bytes` together, but always one. With one thread there is
    no pool: the function runs in the caller's thread, and nothing is ahead.

    One thread at a time may use it; `function` runs in several.

    Example:
        >>> prefetch = Prefetch(abs, threads=2)
        >>> [*prefetch.add(-1, 0), *prefetch.add(-2, 0), *prefetch.rest()]
        [(-1, 1), (-2, 2)]
        >>> prefetch.close()
    """

    def __init__(
        self,
        function: Callable[[ItemT], ResultT],
        threads: int,
        max_bytes: int = MAX_BYTES,
        max_items: int = 0,
    ) -> None:
        self._function = function
        # Not those of a ThreadPoolExecutor, for which an interrupted process would wait until all
        # that is under way is done. They begin with the first item.
        self._threads = [
            threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True)
            for number in range(threads if threads > 1 else 0)
        ]
        self._begun = False
        self._queue: SimpleQueue[tuple[ItemT, Future[ResultT]] | None] = SimpleQueue()
        self._max_items = max_items or ITEMS_PER_THREAD * threads
        self._max_bytes = max_bytes
        self._under_way: deque[tuple[ItemT, int, Future[ResultT]]] = deque()
        self._bytes = 0

    def add(self, item: ItemT, size: int | None) -> Iterator[tuple[ItemT, ResultT]]:
        """Start on an item; yield the results that have to make room for it.

        To be used up before the next call. An exception of the function comes out here, when
        its item's turn comes, and then all that is under way is cancelled.

        Args:
            item: what the function is given.
            size: bytes that the result will hold; None: unknown.
        """
        if not self._threads:
            yield item, self._function(item)
            return
        size = UNKNOWN_BYTES if size is None else size
        while self._under_way and (
            len(self._under_way) >= self._max_items or self._bytes + size > self._max_bytes
        ):
            yield self._take()
        future: Future[ResultT] = Future()
        self._under_way.append((item, size, future))
        self._bytes += size
        self._begin()
        self._queue.put((item, future))

    def rest(self) -> Iterator[tuple[ItemT, ResultT]]:
        """Yield what is still under way."""
        while self._under_way:
            yield self._take()

    def cancel(self) -> None:
        """Drop what is under way; what a thread is at runs to its end, and nobody gets it."""
        for *_, future in self._under_way:
            future.cancel()
        self._under_way.clear()
        self._bytes = 0

    def close(self) -> None:
        """Cancel, and wait for the threads to end."""
        self.cancel()
        if self._begun:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            item, future = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._function(item))
                except BaseException as error:
                    future.set_exception(error)
            # Held until the next item comes, it would be one more than the bounds allow.
            del task, item, future

    def _take(self) -> tuple[ItemT, ResultT]:
        item, size, future = self._under_way.popleft()
        self._bytes -= size
        try:
            return item, future.result()
        except BaseException:
            self.cancel()
            raise
