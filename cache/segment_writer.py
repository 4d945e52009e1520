"""What one process writes of the packed mode: its own segments, their journals, and its journal of dead slots."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Sequence

from .base import Array
from .files import Folder
from .integrity import payload
from .journal import JournalReader
from .lock import ProcessLock, exclusive
from .npyformat import header
from .segment import DATA, HUGE, Segment, capacity
from .segment_journal import dead_record, entry_record, entry_records, header_record, sealed_record, segment_files
from .slots import SlotIndex

_MANY = 16  # entries, from which on arrays of records are quicker
Kind = tuple[str, tuple[int, ...]]
"""dtype and shape of the entries of a segment."""


class SegmentWriter:
    """Writes for the store that owns ``slots`` and ``entries``, under its ``lock``.

    A forked child begins anew: it never writes into the segments or journals of its parent.

    Args:
        folder: of the segments.
        slots, entries: what the store knows, and the reader of the ``.idx`` journals.
        lock: the store's.
        budget: bytes that all segments may take, or None.
        forget: called with the token of a segment that is gone.
        evict: called with bytes; removes segments until the rest fits into so many.
    """

    def __init__(
        self,
        folder: Folder,
        slots: SlotIndex,
        entries: JournalReader,
        lock: ProcessLock,
        budget: int | None,
        forget: Callable[[str], None],
        evict: Callable[..., None],
    ) -> None:
        self._folder, self._slots, self._entries, self._lock = folder, slots, entries, lock
        self._budget, self._forget, self._evict = budget, forget, evict
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._open: dict[Kind, Segment] = {}
        self._made: dict[Kind, int] = {}
        self._tomb_name = ""

    def _leave_parent(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def tokens(self) -> Collection[str]:
        """Return the segments that this process writes to: nobody else adds to their journals."""
        return {segment.token for segment in self._open.values()} if self._pid == os.getpid() else ()

    # -- entries -------------------------------------------------------------------------------------------------------

    def write(self, digest: bytes, array: Array, total: bytes) -> Segment:
        """Put an entry into a segment and publish it; return the segment.

        Raises FileNotFoundError if the segment was evicted between two puts: another try takes a new one.
        """
        return self.write_rows([digest], array[None], [total])[0]

    def write_rows(self, digests: Sequence[bytes], rows: Array, totals: Sequence[bytes]) -> tuple[Segment, int]:
        """Put as many rows of a C-contiguous array as fit into one segment, by one write and one of their records.

        Returns the segment and how many; at least one. Raises as ``write`` does.
        """
        kind = (rows.dtype.str, rows.shape[1:])
        with self._lock:
            self._leave_parent()
            segment = self._open.get(kind) or self._make(rows[0, ...])
            slots = _take(segment, len(digests))
            if segment.is_full:
                self._open.pop(kind, None)
        try:
            self._folder.write_at(segment.name, DATA + slots[0] * segment.entry_bytes, payload(rows[: len(slots)]))
        except FileNotFoundError:
            with self._lock:
                self._forget(segment.token)
            raise
        except OSError:
            with self._lock:
                for slot in slots:
                    segment.give_back(slot)
                self._open.setdefault(kind, segment)
            raise
        with self._lock:
            self._publish(kind, segment, slots, digests, totals)
        return segment, len(slots)

    def _publish(
        self, kind: Kind, segment: Segment, slots: range, digests: Sequence[bytes], totals: Sequence[bytes]
    ) -> None:
        if segment.token not in self._slots.numbers:
            raise FileNotFoundError(f"{segment.name} was forgotten while it was written to")
        entries, many = list(zip(slots, digests, totals)), None
        if len(entries) < _MANY:
            text = b"".join(entry_record(segment.token, slot, digest, total) for slot, digest, total in entries)
        else:
            many = entry_records(segment.token, slots, digests[: len(slots)], totals[: len(slots)])
            text = many.tobytes()
        try:
            self._folder.append(segment.token + ".idx", text)
        except OSError:
            if self._open.get(kind) is segment:
                del self._open[kind]  # its journal may end in part of a record: nothing more is appended to it
            raise
        if many is not None:
            self._slots.learn([(segment.token, many)])
        else:
            for slot, digest, total in entries:
                self._slots.publish(segment, slot, digest, total)
        self._entries.wrote(segment.token, len(entries))
        segment.unpublished -= len(slots)
        if not segment.unpublished:
            self._seal(segment.token + ".idx")

    def _make(self, array: Array) -> Segment:
        """Make a segment for entries like ``array``, within the budget."""
        kind = (array.dtype.str, array.shape)
        number = self._made.get(kind, 0)
        slots = capacity(array.nbytes, number, self._budget // 16 if self._budget else HUGE)
        size = DATA + slots * array.nbytes
        token = secrets.token_hex(8)
        if self._budget is None:
            self._create(token, array, slots, size)
        elif size > self._budget:
            raise OSError(f"an entry of {array.nbytes} bytes is larger than the budget of {self._budget} bytes")
        else:
            with exclusive(self._folder):  # so that two who make room at once do not both use it
                self._evict(self._budget - size)
                self._create(token, array, slots, size)
                self._evict(self._budget, keep=token)  # others made one at the same time, where there are no locks
        self._entries.watch(token)
        segment = self._slots.segment(token)
        segment.describe(array.dtype, array.shape, slots)
        self._made[kind] = number + 1
        self._open[kind] = segment
        return segment

    def _create(self, token: str, array: Array, slots: int, size: int) -> None:
        self._folder.publish(token + ".idx", [header_record(token)], replace=False)
        head = header(array.dtype, (slots, *array.shape), DATA)
        try:
            self._folder.publish(token + ".npy", [head], size, replace=False)
        except OSError:
            self._folder.delete(token + ".idx")
            raise

    def stop(self, segment: Segment) -> None:
        """Write no more into a segment that is gone."""
        for kind in [kind for kind, mine in self._open.items() if mine is segment]:
            del self._open[kind]

    # -- dead slots ----------------------------------------------------------------------------------------------------

    def bury(self, token: str, slot: int, digest: bytes) -> None:
        """Tell other processes that a slot is dead. Raises OSError."""
        self._leave_parent()
        name, self._tomb_name = self._tomb_name, ""  # its end may be torn, if this fails
        record = dead_record(token, slot, digest)
        if name:
            with contextlib.suppress(FileNotFoundError):  # purged by another process: take a new one
                self._folder.append(name, record)
                self._tomb_name = name
                return
        name = secrets.token_hex(8) + ".del"
        self._folder.publish(name, [header_record(name[:16]), record], replace=False)
        self._tomb_name = name

    # -- the end -------------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Say that this process's journals will not grow any more."""
        self._leave_parent()
        for name in [*(segment.token + ".idx" for segment in self._open.values()), self._tomb_name]:
            with contextlib.suppress(OSError):  # not sealed, a journal is looked at again and again; that is all
                self._seal(name)
        self._begin()

    def _seal(self, journal: str) -> None:
        if journal:
            self._folder.append(journal, sealed_record(journal[:16]))


def _take(segment: Segment, count: int) -> range:
    """Return consecutive slots to fill, at most ``count``."""
    first = segment.take()
    stop = first + 1
    while stop - first < count and not segment.is_full:
        slot = segment.take()
        if slot != stop:  # one that was given back
            segment.give_back(slot)
            break
        stop += 1
    return range(first, stop)


def evict(folder: Folder, budget: int, remove: Callable[[str], None], keep: str = "") -> None:
    """Call ``remove(token)`` on the least recently used segments, except ``keep``, until the rest fits."""
    found = [(status.st_mtime_ns, status.st_size, token) for token, status in segment_files(folder)]
    total = sum(size for _, size, _ in found)
    for _, size, token in sorted(found):
        if total <= budget:
            return
        if token != keep:
            remove(token)
            total -= size
