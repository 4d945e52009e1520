"""What each epoch cost, kept for `Loader.stats`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

EPOCHS_KEPT = 100
"""How many epochs are remembered one by one."""

Counts = dict[str, Any]


class Accounts:
    """Seconds that the loop has waited, and the counts of the last epochs that ran to their end.

    Args:
        counts: gives the counters of the whole run so far.
    """

    def __init__(self, counts: Callable[[], Counts]) -> None:
        self.seconds_waiting = 0.0
        self.epochs: deque[Counts] = deque(maxlen=EPOCHS_KEPT)
        self._counts = counts

    def begin(self) -> tuple[float, Counts]:
        """Return what `finish` compares with."""
        return time.perf_counter(), self._counts()

    def finish(self, begun: tuple[float, Counts], epoch: int, samples: int, waited: float) -> None:
        """Note an epoch that is over.

        Args:
            begun: what `begin` gave.
            epoch: its number.
            samples: taken by this rank.
            waited: seconds that the loop has waited for its batches.
        """
        start, before = begun
        seconds = time.perf_counter() - start
        counts = {name: count - before[name] for name, count in self._counts().items()}
        times = {"seconds": seconds, "seconds_waiting": waited, "share_waiting": waited / seconds if seconds else 0.0}
        self.epochs.append({"epoch": epoch, "samples": samples, **counts, **times})
