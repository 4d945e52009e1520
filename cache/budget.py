"""A byte budget for a folder of entries that many processes fill: the least recently used entries leave first.

Nobody keeps a common account. Each process counts what is there, adds what it writes, and counts again after each
128th of the budget; entries leave when 15/16 of it are reached, which leaves room for what eight writers have not yet
seen of each other. (Budgets of less than 1 MiB are counted at every write, and used up to the last byte.) A file
counts in whole blocks of 4096 bytes. The time of an entry's last use is the mtime of its file.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .files import Folder
from .lock import ProcessLock

QUARANTINE = "quarantine"  # the folder of damaged entries
_EXACT = 1 << 20


def charge(size: int) -> int:
    """What a file of ``size`` bytes costs."""
    return -(-size // 4096) * 4096


class Budget:
    """Keeps ``folder`` within ``limit`` bytes by calling ``remove(stem)`` (-> whether it was there) on the oldest
    entries.

    A stem is ``"shard/<32 hex digits>"``; files whose name does not begin so count, but are never removed.
    """

    def __init__(self, folder: Folder, limit: int, remove: Callable[[str], bool]) -> None:
        self.limit = limit
        self._folder, self._remove = folder, remove
        self._lock = ProcessLock()
        exact = limit < _EXACT
        self._line = limit if exact else limit - limit // 16
        self._step = 0 if exact else limit // 128
        self._known = self._unseen = 0
        self._counted = False

    def make_room(self, size: int) -> int:
        """Makes room for an entry of ``size`` bytes before it is written; how many entries had to leave.

        Raises OSError if it is larger than the whole budget.
        """
        cost = charge(size)
        if cost > self._line:
            raise OSError(errno.EFBIG, f"an entry of {size} bytes is larger than the budget of {self.limit} bytes")
        with self._lock:
            left = 0
            if not self._counted or self._unseen >= self._step or self._known + cost > self._line:
                left = self._count(self._line - cost)
            self._known += cost
            self._unseen += cost
            return left

    def _count(self, allowed: int) -> int:
        """Counts what is there and removes the oldest entries until at most ``allowed`` bytes are."""
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        aside: list[tuple[str, int]] = []
        total = 0
        for name, status in self._folder.scan():
            cost = charge(status.st_size)
            total += cost
            stem = entry_stem(name)
            if stem is not None:
                sizes[stem] = sizes.get(stem, 0) + cost
                used[stem] = max(used.get(stem, 0), status.st_mtime_ns)
            elif name.startswith(QUARANTINE + "/"):
                aside.append((name, cost))
        while aside and total > allowed:  # damaged entries go before any good one
            name, cost = aside.pop()
            self._folder.delete(name)
            total -= cost
        left = 0
        for stem in sorted(used, key=lambda stem: used[stem]):
            if total <= allowed:
                break
            left += self._remove(stem)
            total -= sizes[stem]
        self._known, self._unseen, self._counted = total, 0, True
        return left


def entry_stem(name: str) -> str | None:
    """``"ab/<32 hex>"`` of a file of the entry ``<32 hex>``, which lies in the shard of its first two digits.

    Else None.
    """
    shard, _, base = name.partition("/")
    digits = base.partition(".")[0]
    if len(digits) != 32 or digits.strip("0123456789abcdef") or shard != digits[:2]:
        return None
    return f"{shard}/{digits}"
