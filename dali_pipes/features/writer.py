"""Work that is done behind the caller's back by one thread, in order, with a bound on what waits.

What fails is raised again where the caller next comes by. A forked child gets a thread of its own and begins with
nothing; the parent's jobs stay the parent's.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Writer:
    """Does `work(job)` for every job submitted.

    Args:
        work: what to do with a job.
        limit: bytes of jobs that may wait; one that is larger waits alone.
        inline: do the work at once, in the calling thread.
    """

    def __init__(self, work: Callable[[Any], None], limit: int, inline: bool = False) -> None:
        self._work, self._limit, self._inline = work, limit, inline
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._jobs: deque[tuple[Any, int]] = deque()
        self._change = threading.Condition()
        self._bytes = self._unfinished = 0
        self._errors: list[BaseException] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def pending(self) -> int:
        """Jobs that are not done yet."""
        self._here()
        return self._unfinished

    def submit(self, job: Any, size: int) -> None:
        """Do a job of `size` bytes later; waits while there are too many."""
        self._here()
        if self._inline:
            self._work(job)
            return
        with self._change:
            while self._jobs and self._bytes + size > self._limit:
                self._change.wait()
            self._jobs.append((job, size))
            self._bytes += size
            self._unfinished += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dali-pipes-features", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def check(self) -> None:
        """Raise the first error of the jobs done since the last check."""
        self._here()
        with self._change:
            errors, self._errors = self._errors, []
        if errors:
            raise errors[0]

    def flush(self) -> None:
        """Wait until every job is done; raise as `check` does."""
        self._here()
        with self._change:
            while self._unfinished:
                self._change.wait()
        self.check()

    def close(self) -> None:
        """Do what waits, and end the thread. Raises nothing: `flush` first."""
        self._here()
        with self._change:
            self._closing = True
            self._change.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _here(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._jobs:
                    if self._closing:
                        self._thread = None
                        return
                    self._change.wait()
                job, size = self._jobs.popleft()
                self._bytes -= size
                self._change.notify_all()
            try:
                self._work(job)
            except BaseException as error:
                with self._change:
                    self._errors.append(error)
            with self._change:
                self._unfinished -= 1
                self._change.notify_all()
