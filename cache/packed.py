"""The ``pinned`` mode: packed ``.npy`` segments that many processes fill at once without locks between them.

On disk, in one folder: ``<token>.npy`` (see :mod:`.segment`), ``<token>.idx``, a journal with one 64-byte record
for each published slot (key, segment, slot, checksum), and ``<token>.del``, a journal of slots that are dead. Each is
written by one process only, the one that made it. Tokens are random.

- put: a free slot of this process's own segment of that shape is filled with pwrite, then its record is appended.
  That record is the publication: whoever dies before it has published nothing.
- get: a look-up and an index into a read-only map. The first time, the payload is read and checked.
- delete, replacement, a slot whose bytes are wrong: a record in the ``.del`` journal. A segment whose slots are all
  dead is unlinked. The first two are made under the folder's lock, which shuts out merging (:mod:`.compact`).
- A byte budget evicts whole segments, the least recently used first, and counts every segment at its full size.

Segments are opened for each write and never created by it, so one that was evicted is noticed, and on a network
folder what was written is seen by whoever opens it next.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import Any

from .base import Array
from .compact import Compactor
from .errors import IntegrityError
from .files import Folder
from .flat import Places
from .folderstore import FolderStore
from .integrity import checksum, payload, storable
from .journal import JournalReader
from .key import Key
from .lock import ProcessLock, exclusive
from .pin import PageLocks
from .segment import SLOT_BITS, Replaced, Segment
from .segment_journal import RECORD, is_abandoned, is_left, orphans, segment_files
from .segment_writer import SegmentWriter, evict
from .slots import SLOT_MASK, SlotIndex
from .tagging import is_tagged


class PackedStore(FolderStore):
    """See the module. ``directory`` is the folder of the whole cache; segments lie in its subfolder ``pinned``."""

    mode = "pinned"
    subfolder = "pinned"
    pattern = re.compile(r"[0-9a-f]{16}\.(npy|idx|del)")

    def _prepare(self) -> None:
        self._lock = ProcessLock()
        self._entries = JournalReader(self._folder, ".idx", RECORD)
        self._tombs = JournalReader(self._folder, ".del", RECORD)
        self._slots = SlotIndex(self._folder)
        self._index, self._segments = self._slots.places, self._slots.segments
        self._locks = PageLocks()
        self._recent: Segment | None = None
        self._maker = os.getpid()
        budget = self.options.disk_bytes
        self._writer = SegmentWriter(
            self._folder, self._slots, self._entries, self._lock, budget, self._forget, self._evict
        )

    def _begin(self) -> None:
        with self._lock:
            self._refresh()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Array | None:
        """Return the entry as a read-only view of the map, or None."""
        place = self._index.get(key.digest)
        if place is not None and not self._closed:
            segment = self._segments.get(place >> SLOT_BITS)
            array = None if segment is None else segment.array  # once: another thread may forget it meanwhile
            if segment is not None and array is not None and place & SLOT_MASK in segment.trusted:
                if segment is not self._recent:
                    self._use(segment)
                self.hits += 1
                view: Array = array[place & SLOT_MASK, ...]
                return view
        return super().get(key)

    def known(self, key: Key) -> Array | None:
        """See ``Store.known``."""
        return self.get(key) if key.digest in self._index else None

    def _get(self, key: Key) -> Array | None:
        place = self._index.get(key.digest)
        if place is None:
            with self._lock:
                self._refresh()
            place = self._index.get(key.digest)
        while place is not None:
            segment, slot = self._segments.get(place >> SLOT_BITS), place & SLOT_MASK
            try:
                if segment is None:
                    raise FileNotFoundError("another thread has just forgotten the segment")
                view = self._view(segment, slot, key.digest)
                self._use(segment)
                return view
            except FileNotFoundError as error:
                with self._lock:
                    if segment is not None and self._index.get(key.digest) == place:
                        (self._read_again if isinstance(error, Replaced) else self._forget)(segment.token)
                    self._refresh()  # it may have been merged into another
            except IntegrityError as error:
                if segment is not None:
                    self._bury(segment, slot, key.digest)
                self._refuse(key, str(error))
            place = self._index.get(key.digest)
        return None

    def _view(self, segment: Segment, slot: int, digest: bytes) -> Array:
        """Return a slot to serve; other threads may forget it meanwhile. Raises IntegrityError, FileNotFoundError.

        Under ``verify="always"`` it is a copy, because what is mapped may change after the check.
        """
        verify, secret = self.options.verify, self.options.secret
        if verify == "always":
            copy = segment.load(digest, slot, secret)
            if copy is None:
                raise IntegrityError("its checksum does not fit its bytes")
            return copy
        trusted = slot in segment.trusted
        if not trusted and verify == "first" and not segment.check(digest, slot, secret):
            raise IntegrityError("its checksum does not fit its bytes")
        array = segment.map()
        if slot >= len(array):
            raise IntegrityError("its slot lies outside its segment")
        segment.trusted.add(slot)
        view: Array = array[slot, ...]
        return view

    def _use(self, segment: Segment) -> None:
        """Mark a segment as used, for eviction. A hit on a trusted entry does so only if the segment changes."""
        self._recent = segment
        if self.options.disk_bytes is not None and not self.options.read_only:
            with contextlib.suppress(OSError):  # evicted meanwhile: its map is still good
                self._folder.touch(segment.name)

    def _contains(self, key: Key) -> bool:
        if key.digest not in self._index:
            with self._lock:
                self._refresh()
        return key.digest in self._index

    def _keys(self) -> list[Key]:
        with self._lock:
            self._refresh()
            return [Key(digest) for digest in self._index]

    def _refresh(self) -> None:
        """Take in what other processes have published, buried and removed."""
        try:
            folder = self._folder.status(".")
            buried, _ = self._tombs.poll(folder=folder)
            grown, gone = self._entries.look(self._writer.tokens(), folder)
        except FileNotFoundError:
            return  # a read-only cache that is not there yet
        for name, records in buried:
            if self._slots.bury(records):
                self._tombs.complete.add(name)
        for token in gone:
            self._forget(token)
        self._slots.places.reserve(sum(grown.values()))
        self._entries.complete.update(self._slots.learn(self._entries.read(grown)))

    def _forget(self, token: str) -> None:
        """Drop a segment that is no longer there, and stop writing to it."""
        segment = self._slots.forget(token)
        if segment is not None:
            self._writer.stop(segment)

    def _read_again(self, token: str) -> None:
        """Forget a segment that is another file now, and read its journal anew."""
        self._forget(token)
        self._entries.restart(token)

    def refresh(self) -> None:
        """Notice segments and journals that were replaced in place (by a copy of a backup, say); they are read anew."""
        self._check_open()
        with self._lock:
            try:
                for token in self._entries.shrunk():
                    self._read_again(token)
                for segment in list(self._segments.values()):
                    if segment.is_replaced():
                        self._read_again(segment.token)
                self._refresh()
            except OSError as error:
                self._failed("read", error)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _put(self, key: Key, array: Array) -> None:
        array = storable(array)
        total = checksum(key.digest, array.dtype, array.shape, [payload(array)], self.options.secret)
        with self._lock:
            self._refresh()
            old = {segment.sums.get(slot) for segment, slot in self._slots.slots_of(key.digest)}
        if total not in old:
            try:
                segment = self._writer.write(key.digest, array, total)
            except FileNotFoundError:  # our segment was evicted between two puts
                segment = self._writer.write(key.digest, array, total)
            self._use(segment)
        if old - {total}:  # a replacement, or one that was cut short
            with self._lock, exclusive(self._folder):
                self._refresh()
                for segment, slot in self._slots.slots_of(key.digest):
                    if segment.sums.get(slot) in old - {total}:
                        self._bury(segment, slot, key.digest)

    def _delete(self, key: Key) -> bool:
        with self._lock, exclusive(self._folder):
            self._refresh()
            found = self._slots.slots_of(key.digest)
            for segment, slot in found:
                self._bury(segment, slot, key.digest)
            return bool(found)

    def _bury(self, segment: Segment, slot: int, digest: bytes) -> None:
        """Never serve this slot again, here (at once) and in other processes (through the journal)."""
        with self._lock:
            if segment.token not in self._slots.numbers:
                return
            self._slots.kill(segment.token, slot, digest)
            if self.options.read_only:
                return
            if not self._slots.live(segment.token):
                self._refresh()  # its writer may have filled more of it
            if not self._slots.live(segment.token):
                self._unlink(segment.token)  # needs no space: a full disk can be emptied
                return
            self._writer.bury(segment.token, slot, digest)

    def _unlink(self, token: str) -> None:
        self._folder.delete(token + ".idx")
        self._folder.delete(token + ".npy")
        self._forget(token)

    def _evict(self, budget: int, keep: str = "") -> None:
        """Unlink least recently used segments until all of them fit into ``budget`` bytes."""

        def remove(token: str) -> None:
            self.evicted += self._slots.live(token)
            self._unlink(token)

        evict(self._folder, budget, remove, keep)

    # -- page-locking and upkeep ---------------------------------------------------------------------------------------

    def page_lock(self, budget_bytes: int | None = None) -> int:
        """Page-lock the segments that will not grow any more; return how many bytes are locked now.

        Those are the full ones and those whose writer has closed or died. In one that still grows, a later entry could
        begin in a locked page and end in one that is not, which CUDA refuses to copy. Call this again at every epoch,
        when no copy from an evicted segment is wanted any more.
        """
        self._check_open()
        maps: dict[str, Array] = {}
        with self._lock:
            for token in sorted(self._ended()):
                with contextlib.suppress(OSError, IntegrityError):  # gone or damaged, as whoever reads it will find
                    maps[token] = self._slots.segment(token).map()[: self._slots.used(token)]
        return self._locks.hold(maps, budget_bytes)

    def _ended(self, left_by: Callable[[Folder, str], bool] = is_left) -> set[str]:
        """Segments that will not grow any more, all of whose entries are known; ``left_by``: is a writer dead?"""
        left = {token for token in self._slots.numbers if left_by(self._folder, token + ".idx")}
        with contextlib.suppress(OSError):
            self._refresh()  # afterwards: the last records of a writer that has just died are known too
        return (self._entries.complete | left) & self._slots.numbers.keys()

    def orphans(self) -> list[str]:
        """Return the names of files that dead processes left half made."""
        return orphans(self._folder)

    def trim(self, dry_run: bool = False) -> int:
        """Remove the least recently used entries until the budget is kept; return how many (or how many would be).

        Whole segments leave, except the last that must: if it will not grow any more, as many of its entries as fit
        are kept, the latest ones, in a smaller segment.
        """
        budget, left = self.options.disk_bytes, 0
        if budget is None:
            return 0
        with self._lock:
            ended = self._ended(is_abandoned)
            found = sorted((status.st_mtime_ns, status.st_size, token) for token, status in segment_files(self._folder))
            total = sum(size for _, size, _ in found)
            for _, size, token in found:
                if total <= budget:
                    break
                live, kept = self._slots.live(token), 0
                total -= size
                if token in ended:
                    kept, cost = self._slots.segment(token).fitting(budget - total, live)
                    total += cost
                left += live - kept
                if not dry_run:
                    self._cut(token, kept)
        self.evicted += 0 if dry_run else left
        return left

    def _cut(self, token: str, kept: int) -> None:
        """Keep only ``kept`` entries of a segment, or unlink it."""
        work = Compactor(self._folder, self._slots, self._refresh, self._unlink, None)
        if not kept or not work.shrink(token, kept, self._bury):
            self._unlink(token)

    def compact(self, dry_run: bool = False) -> int:
        """Merge small segments (see :mod:`.compact`); return how many fewer there are, or would be."""
        with self._lock:
            work = Compactor(self._folder, self._slots, self._refresh, self._unlink, self.options.disk_bytes)
            try:
                return work.merge(self._ended(is_abandoned), dry_run or self.options.read_only)
            except OSError as error:
                self._failed("merge segments", error)
                return 0

    def _extra_stats(self) -> dict[str, Any]:
        with self._lock:
            self._refresh()
            size = sum(status.st_blocks * 512 for _, status in segment_files(self._folder))
            found = {"entries": len(self._index), "bytes": size, "budget": self.options.disk_bytes}
            return found | {"segments": len(self._slots.numbers), "unreadable": len(self._entries.unreadable)}

    def close(self) -> None:
        """End the use of this instance; arrays handed out stay valid."""
        if self._closed:
            return
        if self._maker == os.getpid() and is_tagged(self._root):
            self._writer.seal()
        super().close()
        self._locks.close()
        self._index = Places()
