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
import secrets
from typing import Any

from .base import Array, BaseStore, Options
from .compact import Compactor
from .errors import IntegrityError
from .files import Folder, is_tagged, tag
from .integrity import checksum, payload, storable
from .journal import JournalReader
from .key import Key
from .lock import ProcessLock, exclusive
from .npyformat import header
from .pin import PinnedMapping
from .segment import DATA, LARGEST, SLOT_BITS, Segment, capacity
from .slots import (
    RECORD,
    SLOT_MASK,
    SlotIndex,
    dead_record,
    entry_record,
    header_record,
    is_left,
    orphans,
    sealed_record,
    segment_files,
)


class PackedStore(BaseStore):
    """See the module. ``directory`` is the folder of the whole cache; segments lie in its subfolder ``pinned``."""

    mode = "pinned"
    persistent = True

    def __init__(self, directory: str | os.PathLike[str], options: Options, sweep: bool = True) -> None:
        super().__init__(options)
        self.directory = os.path.abspath(os.fspath(directory))
        self._root = Folder(self.directory, options.access_to(self.directory), options.read_only)
        self._folder = Folder(os.path.join(self.directory, "pinned"), self._root.access, options.read_only)
        self._lock = ProcessLock()
        self._entries = JournalReader(self._folder, ".idx", RECORD)
        self._tombs = JournalReader(self._folder, ".del", RECORD)
        self._slots = SlotIndex(self._folder)
        self._index, self._segments = self._slots.places, self._slots.segments
        self._locked: dict[str, PinnedMapping] = {}
        self._recent: Segment | None = None
        self._become_writer()
        try:
            if not options.read_only:
                tag(self._root)
                if sweep:
                    self._root.sweep()
                    self.sweep()
            with self._lock:
                self._refresh()
        except OSError as error:
            self._failed("open", error)

    def _become_writer(self) -> None:
        """Forgets what belongs to the parent process: a child never writes into its segments or journals."""
        self._pid = os.getpid()
        self._open: dict[tuple[str, tuple[int, ...]], Segment] = {}
        self._made: dict[tuple[str, tuple[int, ...]], int] = {}
        self._tomb_name = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.options, False)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Array | None:
        """The entry as a read-only view of the map, or None."""
        place = self._index.get(key.digest)
        if place is not None and not self._closed:
            segment = self._segments[place >> SLOT_BITS]
            array = segment.array  # once: another thread may forget the segment meanwhile
            if array is not None and place & SLOT_MASK in segment.trusted:
                if segment is not self._recent:
                    self._use(segment)
                self.hits += 1
                view: Array = array[place & SLOT_MASK, ...]
                return view
        return super().get(key)

    def _get(self, key: Key) -> Array | None:
        place = self._index.get(key.digest)
        if place is None:
            with self._lock:
                self._refresh()
            place = self._index.get(key.digest)
        while place is not None:
            segment, slot = self._segments[place >> SLOT_BITS], place & SLOT_MASK
            try:
                view = self._view(segment, slot, key.digest)
                self._use(segment)
                return view
            except FileNotFoundError:
                with self._lock:
                    if self._index.get(key.digest) == place:
                        self._forget(segment.token)
                    self._refresh()  # it may have been merged into another
            except IntegrityError as error:
                self._bury(segment, slot, key.digest)
                self._refuse(key, str(error))
            place = self._index.get(key.digest)
        return None

    def _view(self, segment: Segment, slot: int, digest: bytes) -> Array:
        """A slot to serve; other threads may forget it meanwhile. Raises IntegrityError, FileNotFoundError."""
        trusted = slot in segment.trusted
        if not trusted and self.options.verify != "never" and not segment.check(digest, slot, self.options.secret):
            raise IntegrityError("its checksum does not fit its bytes")
        array = segment.map()
        if slot >= len(array):
            raise IntegrityError("its slot lies outside its segment")
        if not trusted and self.options.verify != "always":
            segment.trusted.add(slot)
        view: Array = array[slot, ...]
        return view

    def _use(self, segment: Segment) -> None:
        """Marks a segment as used, for eviction: only when the use moves from one segment to another."""
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
        """Takes in what other processes have published, buried and removed."""
        try:
            buried, _ = self._tombs.poll()
            grown, gone = self._entries.poll()
        except FileNotFoundError:
            return  # a read-only cache that is not there yet
        for name, records in buried:
            if self._slots.bury(records):
                self._tombs.complete.add(name)
        for token in gone:
            self._forget(token)
        for token, records in grown:
            if self._slots.learn(token, records):
                self._entries.complete.add(token)

    def _forget(self, token: str) -> None:
        """Drops a segment that is no longer there, and stops writing to it."""
        segment = self._slots.forget(token)
        for kind in [kind for kind, mine in self._open.items() if mine is segment]:
            del self._open[kind]

    # -- writing -------------------------------------------------------------------------------------------------------

    def _put(self, key: Key, array: Array) -> None:
        array = storable(array)
        total = checksum(key.digest, array.dtype, array.shape, [payload(array)], self.options.secret)
        with self._lock:
            if self._pid != os.getpid():
                self._become_writer()
            self._refresh()
            old = {segment.sums.get(slot) for segment, slot in self._slots.slots_of(key.digest)}
        if total not in old:
            for attempt in (1, 2):
                try:
                    self._write(key, array, total)
                    break
                except FileNotFoundError:  # our segment was evicted between two puts: take a new one
                    if attempt == 2:
                        raise
        if old - {total}:  # a replacement, or one that was cut short
            with self._lock, exclusive(self._folder):
                self._refresh()
                for segment, slot in self._slots.slots_of(key.digest):
                    if segment.sums.get(slot) in old - {total}:
                        self._bury(segment, slot, key.digest)

    def _write(self, key: Key, array: Array, total: bytes) -> None:
        kind = (array.dtype.str, array.shape)
        with self._lock:
            segment = self._open.get(kind) or self._make_segment(array)
            slot = segment.take()
            if segment.is_full:
                self._open.pop(kind, None)
        try:
            self._folder.write_at(segment.name, DATA + slot * array.nbytes, payload(array))
        except FileNotFoundError:
            with self._lock:
                self._forget(segment.token)
            raise
        except OSError:
            with self._lock:
                segment.give_back(slot)
                self._open.setdefault(kind, segment)
            raise
        published = entry_record(segment.token, slot, key.digest, total)
        with self._lock:
            if segment.token not in self._slots.numbers:
                raise FileNotFoundError(f"{segment.name} was forgotten while it was written to")
            try:
                self._folder.append(segment.token + ".idx", published)
            except OSError:
                if self._open.get(kind) is segment:
                    del self._open[kind]  # the journal may end in part of a record: no more records after it
                raise
            self._slots.publish(segment, slot, key.digest, total)
            self._entries.wrote(segment.token)
            if self.options.verify != "always":
                segment.trusted.add(slot)
            segment.unpublished -= 1
            if not segment.unpublished:
                self._seal(segment.token + ".idx")
        self._use(segment)

    def _make_segment(self, array: Array) -> Segment:
        kind = (array.dtype.str, array.shape)
        number = self._made.get(kind, 0)
        budget = self.options.disk_bytes
        slots = capacity(array.nbytes, number, budget // 16 if budget else LARGEST)
        size = DATA + slots * array.nbytes
        if budget and size > budget:
            raise OSError(f"an entry of {array.nbytes} bytes is larger than the budget of {budget} bytes")
        token = secrets.token_hex(8)
        if budget:
            self._evict(budget - size)
        self._folder.publish(token + ".idx", [header_record(token)], replace=False)
        try:
            self._folder.publish(
                token + ".npy", [header(array.dtype, (slots, *array.shape), DATA)], size, replace=False
            )
        except OSError:
            self._folder.delete(token + ".idx")
            raise
        if budget:
            self._evict(budget, keep=token)  # others may have made one at the same time
        self._entries.watch(token)
        segment = self._slots.segment(token)
        segment.describe(array.dtype, array.shape, slots)
        self._made[kind] = number + 1
        self._open[kind] = segment
        return segment

    def _seal(self, journal: str) -> None:
        """Says that a journal will not grow any more."""
        if journal:
            self._folder.append(journal, sealed_record(journal[:16]))

    def _evict(self, budget: int, keep: str = "") -> None:
        """Unlinks least recently used segments until all of them fit into ``budget`` bytes."""
        found = [(status.st_mtime_ns, status.st_size, token) for token, status in segment_files(self._folder)]
        total = sum(size for _, size, _ in found)
        for _, size, token in sorted(found):
            if total <= budget:
                return
            if token != keep:
                self.evicted += self._slots.live(token)
                self._unlink(token)
                total -= size

    def _unlink(self, token: str) -> None:
        self._folder.delete(token + ".idx")
        self._folder.delete(token + ".npy")
        self._forget(token)

    def _delete(self, key: Key) -> bool:
        with self._lock, exclusive(self._folder):
            self._refresh()
            found = self._slots.slots_of(key.digest)
            for segment, slot in found:
                self._bury(segment, slot, key.digest)
            return bool(found)

    def _bury(self, segment: Segment, slot: int, digest: bytes) -> None:
        """Never serves this slot again, here (at once) and in other processes (through the journal)."""
        with self._lock:
            if segment.token not in self._slots.numbers:
                return
            self._slots.kill(segment.token, slot, digest)
            if self.options.read_only:
                return
            if self._pid != os.getpid():
                self._become_writer()
            if not self._slots.live(segment.token):
                self._refresh()  # its writer may have filled more of it
            if not self._slots.live(segment.token):
                self._unlink(segment.token)  # needs no space: a full disk can be emptied
                return
            if not self._tomb_name:
                name = secrets.token_hex(8) + ".del"
                self._folder.publish(name, [header_record(name[:16])], replace=False)
                self._tomb_name = name
            try:
                self._folder.append(self._tomb_name, dead_record(segment.token, slot, digest))
            except OSError:
                self._tomb_name = ""
                raise

    # -- page-locking -------------------------------------------------------------------------------------------------

    def page_lock(self) -> int:
        """Page-locks the segments that are full, or whose writer has closed or died; how many bytes are locked now.

        They stay so until ``close``. Of a segment that still grows a later entry could begin in a locked page and end
        in one that is not, which CUDA refuses to copy. Call it again, at every epoch say. 0 without CUDA.
        """
        with self._lock:
            for token in sorted(self._ended() - self._locked.keys()):
                segment = self._segments[self._slots.numbers[token]]
                try:
                    lock = PinnedMapping(segment.map()[: self._slots.used(token)])
                except (OSError, IntegrityError):
                    continue  # gone or damaged, as whoever reads it will find
                if not lock.active:
                    break
                self._locked[token] = lock
            return sum(lock.array.nbytes for lock in self._locked.values())

    def _ended(self) -> set[str]:
        """Segments that will not grow any more, all of whose entries are known."""
        left = {token for token in self._slots.numbers if is_left(self._folder, token + ".idx")}
        with contextlib.suppress(OSError):
            self._refresh()  # afterwards: the last records of a writer that has just died are known too
        return (self._entries.complete | left) & self._slots.numbers.keys()

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def orphans(self) -> list[str]:
        """What dead processes left half made."""
        return orphans(self._folder)

    def sweep(self) -> int:
        """Removes the orphans; how many there were."""
        return sum(self._folder.delete(name) for name in self.orphans())

    def trim(self) -> int:
        """Removes the least recently used segments until the budget is kept; how many entries left."""
        before = self.evicted
        if self.options.disk_bytes is not None:
            self._evict(self.options.disk_bytes)
        return self.evicted - before

    def compact(self, dry_run: bool = False) -> int:
        """Merges small segments (see :mod:`.compact`); how many fewer there are, or would be."""
        with self._lock:
            work = Compactor(self._folder, self._slots, self._refresh, self._unlink, self.options.disk_bytes)
            try:
                return work.merge(self._ended(), dry_run or self.options.read_only)
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
        if self._closed:
            return
        super().close()
        if self._pid == os.getpid() and is_tagged(self._root):
            for name in [*(segment.token + ".idx" for segment in self._open.values()), self._tomb_name]:
                with contextlib.suppress(OSError):  # unsealed, a journal is looked at again and again: no more
                    self._seal(name)
        for lock in self._locked.values():
            lock.close()
        self._index, self._open, self._locked = {}, {}, {}
        self._folder.close()
        self._root.close()
