"""A byte budget for a folder of entries that many processes fill: the least recently used entries leave first.

Nobody keeps a common account. Each process counts the folder, adds what it writes and takes off what it removes, and
counts again now and then, because others write too:

- The line that is kept is 15/16 of the budget. The rest is room for what writers have not yet seen of each other.
- A writer counts again when it has written a 512th of the budget. If it finds that nobody else wrote meanwhile, it
  writes twice as much before the next count (up to a 32nd of the budget), until somebody does, or until so much time
  has passed that somebody may.
- From a count it keeps the list of the entries that were used least recently. So an entry that must leave is found
  without another count. One that was used since the count stays.
- Where entries are so large that 16 writers could fill the room with one entry each, and in budgets below 2 MiB, an
  entry is counted and written under the folder's lock, and the last byte is used.

A file counts in whole blocks of 4096 bytes. The time of an entry's last use is the mtime of its file.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .files import Folder
from .lock import ProcessLock, exclusive

QUARANTINE = "quarantine"  # the folder of damaged entries
_EXACT = 2 << 20
_WRITERS = 16  # that may write at once
_LEAST_KEPT = 4096  # entries on the list of those that leave next
_PATIENCE = 1.0  # seconds for which one who was alone is believed to be alone; more where counting takes long


def charge(size: int) -> int:
    """Return what a file of ``size`` bytes costs."""
    return -(-size // 4096) * 4096


@dataclass
class _Count:
    """What a look at the folder found: ``used`` by stem in ns, ``sizes`` by stem, damaged entries, and all bytes."""

    used: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    aside: list[tuple[str, int]] = field(default_factory=list)
    total: int = 0


class Budget:
    """Keeps ``folder`` within ``limit`` bytes.

    Args:
        folder: of the entries. A stem is ``"shard/<32 hex digits>"``; files whose name does not begin so count, but
            are never removed.
        limit: bytes.
        remove: called with a stem; removes that entry and returns whether it was there.
        suffix: of the file whose mtime tells of an entry's last use.
    """

    def __init__(self, folder: Folder, limit: int, remove: Callable[[str], bool], suffix: str) -> None:
        self.limit = limit
        self._folder, self._remove, self._suffix = folder, remove, suffix
        self._lock = ProcessLock()
        self._line = limit if limit < _EXACT else limit - limit // 16
        self._least, self._most = limit // 512, limit // 32
        self._step = 0
        self._known = self._unseen = 0
        self._oldest: list[tuple[int, str, int]] = []  # a heap of (used, stem, size)
        self._until = 0.0  # monotonic: when to count again however little was written
        self.evicted = 0

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Make room for an entry of ``size`` bytes, which is written inside this.

        Raises OSError if it is larger than the whole budget.
        """
        cost = charge(size)
        if cost > self._line:
            raise OSError(errno.EFBIG, f"an entry of {size} bytes is larger than the budget of {self.limit} bytes")
        if self.limit < _EXACT or cost * _WRITERS > self._most:
            with self._lock, exclusive(self._folder):
                self._count(self._line - cost)
                yield
                self._until = 0.0
            return
        with self._lock:
            if (
                self._unseen >= self._step
                or time.monotonic() > self._until
                or (self._known + cost > self._line and not self._make(self._line - cost))
            ):
                self._count(self._line - cost)
            self._known += cost
            self._unseen += cost
        yield

    def trim(self) -> int:
        """Remove the least recently used entries until the budget is kept; return how many."""
        before = self.evicted
        with self._lock:
            self._count(self._line)
        return self.evicted - before

    def excess(self) -> int:
        """Return how many entries ``trim`` would remove."""
        found = self._look()
        left, allowed = found.total - sum(cost for _, cost in found.aside), self._line
        for count, stem in enumerate(sorted(found.used, key=found.used.__getitem__)):
            if left <= allowed:
                return count
            left -= found.sizes[stem]
        return len(found.used) if left > allowed else 0

    def _look(self) -> _Count:
        found = _Count()
        for name, status in self._folder.scan():
            cost = charge(status.st_size)
            found.total += cost
            stem = entry_stem(name)
            if stem is not None:
                found.sizes[stem] = found.sizes.get(stem, 0) + cost
                found.used[stem] = max(found.used.get(stem, 0), status.st_mtime_ns)
            elif name.startswith(QUARANTINE + "/"):
                found.aside.append((name, cost))
        return found

    def _count(self, allowed: int) -> None:
        """Count what is there, and remove the oldest entries until at most ``allowed`` bytes are left."""
        begun = time.monotonic()
        found = self._look()
        alone = begun <= self._until and found.total <= self._known
        self._step = min(max(2 * self._step, self._least), self._most) if alone else self._least
        self._known, self._unseen = found.total, 0
        while found.aside and self._known > allowed:  # damaged entries go before any good one
            name, cost = found.aside.pop()
            self._folder.delete(name)
            self._known -= cost
        keep = max(_LEAST_KEPT, len(found.used) // 16)
        self._oldest = heapq.nsmallest(keep, ((used, stem, found.sizes[stem]) for stem, used in found.used.items()))
        self._make(allowed)  # a sorted list is a heap
        now = time.monotonic()
        self._until = now + max(_PATIENCE, 50 * (now - begun))

    def _make(self, allowed: int) -> bool:
        """Remove the oldest entries that are known; return whether at most ``allowed`` bytes are left."""
        while self._known > allowed and self._oldest:
            used, stem, size = heapq.heappop(self._oldest)
            status = self._folder.status(stem + self._suffix)
            if status is not None and status.st_mtime_ns > used:
                continue  # used or written since: no longer among the oldest
            self.evicted += self._remove(stem)
            self._known -= size
        return self._known <= allowed


def entry_stem(name: str) -> str | None:
    """Return ``"ab/<32 hex>"`` of a file of the entry ``<32 hex>``, which lies in the shard of its first two digits.

    Else None.
    """
    shard, _, base = name.partition("/")
    digits = base.partition(".")[0]
    if len(digits) != 32 or digits.strip("0123456789abcdef") or shard != digits[:2]:
        return None
    return f"{shard}/{digits}"
