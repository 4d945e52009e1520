"""Iterating ahead of the consumer."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


def lookahead(items: Iterable[T], ahead: int) -> Iterator[T]:
    """`items`, each taken from its source `ahead` items before it is yielded."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None
    complete: bool = False


class Prefetch(Generic[T]):
    """Iterates over `make()` in a thread of its own, at most `ahead` items ahead.

    An error of the producer is raised where the consumer meets it. `close` ends the thread, at any time and from any
    state; the iterator that the thread ran is closed too.

    Args:
        make: makes the iterator; called in the thread.
        ahead: finished items that may wait.
    """

    def __init__(self, make: Callable[[], Iterator[T]], ahead: int) -> None:
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(make,), name="dali-pipes-prefetch", daemon=True)
        self.seconds_waiting = 0.0
        """How long the consumer has waited for items, in seconds."""
        self.complete = False
        """Whether the consumer has had every item that there is."""
        self._thread.start()

    def _produce(self, make: Callable[[], Iterator[T]]) -> None:
        error: BaseException | None = None
        complete = False
        try:
            items = make()
            with contextlib.ExitStack() as stack:
                if hasattr(items, "close"):
                    stack.callback(items.close)
                for item in items:
                    self._room.acquire()
                    self._ready.put(item)
                    if self._stop.is_set():
                        break
                else:
                    complete = True
        except BaseException as raised:
            error = raised
        self._ready.put(_End(error, complete))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        start = time.perf_counter()
        item = self._ready.get()
        self.seconds_waiting += time.perf_counter() - start
        if isinstance(item, _End):
            self.complete = item.complete
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        self._room.release()
        return item

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop, or has ended."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Tells the producer to stop and waits for nothing: safe where garbage is collected, in whatever thread."""
        if self._stop.is_set():  # also when Python ends, and has taken this module's names away
            return
        self._stop.set()
        self._room.release()  # the producer may be waiting for room
        self._ready.put(_End())  # and a consumer for an item

    def close(self) -> None:
        """Stop the producer and wait for its thread."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        self._ready.put(_End())
