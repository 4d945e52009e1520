"""The ``pinned`` mode: packed ``.npy`` segments that many processes fill at once without locks between them.

On disk, in one folder: ``<token>.npy`` (see :mod:`cache.segment`), ``<token>.idx``, a journal with one 64-byte record
for each published slot (key, segment, slot, checksum), and ``<token>.del``, a journal of slots that are dead. Each is
written by one process only, the one that made it. Tokens are random.

- put: a free slot of this process's own segment of that shape is filled with pwrite, then its record is appended.
  That record is the publication: whoever dies before it has published nothing.
- get: a look-up and an index into a read-only map. The first time, the payload is read and checked.
- delete, replacement, a slot whose bytes are wrong: a record in the ``.del`` journal. A segment whose slots are all
  dead is unlinked.
- A byte budget evicts whole segments, the least recently used first, and counts every segment at its full size.

Segments are opened for each write and never created by it, so one that was evicted is noticed, and on a network
folder what was written is seen by whoever opens it next.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Any

import numpy as np

from .base import Array, BaseStore, Options, ProcessLock
from .errors import IntegrityError
from .files import Folder, is_tagged, tag
from .integrity import checksum, payload, storable
from .journal import JournalReader, is_journal, seal
from .key import Key
from .npyformat import header
from .owner import Owner, me
from .segment import DATA, LARGEST, SLOT_BITS, Segment, capacity

HEADER, ENTRY, DEAD, SEALED = 1, 2, 3, 4
RECORD = np.dtype(
    [("kind", "<u8"), ("key", "V16"), ("token", "<u8"), ("slot", "<u8"), ("sum", "V16"), ("check", "<u8")]
)
_MASK = (1 << SLOT_BITS) - 1


class PackedStore(BaseStore):
    """See the module. ``directory`` is the folder of the whole cache; segments lie in its subfolder ``pinned``."""

    mode = "pinned"

    def __init__(self, directory: str | os.PathLike[str], options: Options, sweep: bool = True) -> None:
        super().__init__(options)
        self.directory = os.path.abspath(os.fspath(directory))
        self._root = Folder(self.directory, options.access, options.read_only)
        self._folder = Folder(os.path.join(self.directory, "pinned"), options.access, options.read_only)
        self._lock = ProcessLock()
        self._entries = JournalReader(self._folder, ".idx", RECORD)
        self._tombs = JournalReader(self._folder, ".del", RECORD)
        self._segments: list[Segment] = []  # by number; the number and the slot make a place
        self._numbers: dict[str, int] = {}
        self._index: dict[bytes, int] = {}  # digest -> place
        self._copies: dict[bytes, list[int]] = {}  # further places of a digest
        self._dead: dict[str, set[int]] = {}
        self._live: dict[str, int] = {}
        self._recent: Segment | None = None
        self._become_writer()
        try:
            if not options.read_only:
                tag(self._root)
                if sweep:
                    self.sweep()
            with self._lock:
                self._refresh()
        except OSError as error:
            self._failed("open", error)

    def _become_writer(self) -> None:
        """Forgets what belongs to the parent process: a child never writes into its segments or journals."""
        self._pid = os.getpid()
        self._open: dict[tuple[str, tuple[int, ...]], tuple[Segment, list[int]]] = {}  # and its free slots
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
            if array is not None and place & _MASK in segment.trusted:
                if segment is not self._recent:
                    self._use(segment)
                self.hits += 1
                view: Array = array[place & _MASK, ...]
                return view
        return super().get(key)

    def _get(self, key: Key) -> Array | None:
        place = self._index.get(key.digest)
        if place is None:
            with self._lock:
                self._refresh()
            place = self._index.get(key.digest)
        while place is not None:
            segment, slot = self._segments[place >> SLOT_BITS], place & _MASK
            why = self._why_not(segment, slot, key.digest)
            if not why:
                self._use(segment)
                view: Array = segment.map()[slot, ...]
                return view
            if why != "gone":
                self._bury(segment, slot, key.digest)
                self._refuse(key, why)
            place = self._index.get(key.digest)
        return None

    def _why_not(self, segment: Segment, slot: int, digest: bytes) -> str:
        """Empty if the slot may be served, else the reason."""
        try:
            if slot not in segment.trusted:
                if self.options.verify != "never" and not segment.check(digest, slot, self.options.secret):
                    return "its checksum does not fit its bytes"
                segment.map()
                if slot >= segment.slots:
                    return "its slot lies outside its segment"
                if self.options.verify != "always":
                    segment.trusted.add(slot)
            segment.map()
        except IntegrityError as error:
            return str(error)
        except FileNotFoundError:
            with self._lock:
                self._forget(segment.token)
            return "gone"
        return ""

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
        for _, records in buried:
            records = records[records["kind"] == DEAD]
            for token, slot, digest in records[["token", "slot", "key"]].tolist():
                self._kill(f"{token:016x}", slot, digest)
        for token in gone:
            self._forget(token)
        for token, records in grown:
            self._learn(token, records)

    def _learn(self, token: str, records: np.ndarray[Any, Any]) -> None:
        segment = self._segment(token)
        own = records["token"] == int(token, 16)
        entries = records[own & (records["kind"] == ENTRY)]
        dead = self._dead.get(token, set())
        base = self._numbers[token] << SLOT_BITS
        for digest, slot, total in entries[["key", "slot", "sum"]].tolist():
            if slot <= _MASK and slot not in dead and slot not in segment.sums:
                segment.sums[slot] = total
                self._add(digest, base | slot)
                self._live[token] = self._live.get(token, 0) + 1
        if bool(np.any(own & (records["kind"] == SEALED))):
            self._entries.complete.add(token)

    def _segment(self, token: str) -> Segment:
        number = self._numbers.get(token)
        if number is None:
            number = self._numbers[token] = len(self._segments)
            self._segments.append(Segment(self._folder, token))
        return self._segments[number]

    def _add(self, digest: bytes, place: int) -> None:
        first = self._index.setdefault(digest, place)
        if first != place:
            self._copies.setdefault(digest, []).append(place)

    def _remove(self, digest: bytes, place: int) -> None:
        more = self._copies.get(digest, [])
        if place in more:
            more.remove(place)
        elif self._index.get(digest) == place:
            if more:
                self._index[digest] = more.pop(0)
            else:
                del self._index[digest]
        if not more:
            self._copies.pop(digest, None)

    def _forget(self, token: str) -> None:
        """Drops a segment that is no longer there."""
        number = self._numbers.pop(token, None)
        self._dead.pop(token, None)
        self._live.pop(token, None)
        if number is None:
            return
        segment = self._segments[number]
        for digest in [d for d, place in self._index.items() if place >> SLOT_BITS == number]:
            self._copies[digest] = [p for p in self._copies.get(digest, []) if p >> SLOT_BITS != number]
            self._remove(digest, self._index[digest])
        for digest in list(self._copies):
            self._copies[digest] = [p for p in self._copies[digest] if p >> SLOT_BITS != number]
        self._copies = {digest: places for digest, places in self._copies.items() if places}
        segment.sums, segment.trusted, segment.array = {}, set(), None
        for kind in [kind for kind, (mine, _) in self._open.items() if mine is segment]:
            del self._open[kind]

    # -- writing -------------------------------------------------------------------------------------------------------

    def _put(self, key: Key, array: Array) -> None:
        array = storable(array)
        total = checksum(key.digest, array.dtype, array.shape, [payload(array)], self.options.secret)
        with self._lock:
            if self._pid != os.getpid():
                self._become_writer()
            self._refresh()
            old = [self._index[key.digest], *self._copies.get(key.digest, [])] if key.digest in self._index else []
            same = [p for p in old if self._segments[p >> SLOT_BITS].sums.get(p & _MASK) == total]
            if same:
                for place in set(old) - set(same):  # a replacement that was cut short
                    self._bury(self._segments[place >> SLOT_BITS], place & _MASK, key.digest)
                return
        for attempt in (1, 2):
            try:
                self._write(key, array, total)
                break
            except FileNotFoundError:  # our segment was evicted between two puts: take a new one
                if attempt == 2:
                    raise
        with self._lock:
            for place in old:
                self._bury(self._segments[place >> SLOT_BITS], place & _MASK, key.digest)

    def _write(self, key: Key, array: Array, total: bytes) -> None:
        kind = (array.dtype.str, array.shape)
        with self._lock:
            segment, free = self._open.get(kind) or self._make_segment(array)
            slot = free.pop()
            if not free:
                self._open.pop(kind, None)
        try:
            self._folder.write_at(segment.name, DATA + slot * array.nbytes, payload(array))
        except FileNotFoundError:
            with self._lock:
                self._forget(segment.token)
            raise
        except OSError:
            with self._lock:
                free.append(slot)  # nothing was published: the slot can be used again
                self._open.setdefault(kind, (segment, free))
            raise
        record = _record(ENTRY, key.digest, int(segment.token, 16), slot, total)
        with self._lock:
            try:
                self._folder.append(segment.token + ".idx", record)
            except OSError:
                self._open.pop(kind, None)  # the journal may end in part of a record: no more records after it
                raise
            segment.sums[slot] = total
            if self.options.verify != "always":
                segment.trusted.add(slot)
            self._live[segment.token] = self._live.get(segment.token, 0) + 1
            self._index_first(key.digest, self._numbers[segment.token] << SLOT_BITS | slot)
            segment.unpublished -= 1
            if not segment.unpublished:
                self._seal(segment)
        self._use(segment)

    def _index_first(self, digest: bytes, place: int) -> None:
        old = self._index.get(digest)
        self._index[digest] = place
        if old is not None and old != place:
            self._copies.setdefault(digest, []).append(old)

    def _make_segment(self, array: Array) -> tuple[Segment, list[int]]:
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
        segment = self._segment(token)
        segment.describe(array.dtype, array.shape, slots)
        self._made[kind] = number + 1
        self._open[kind] = segment, list(range(slots - 1, -1, -1))
        return self._open[kind]

    def _seal(self, segment: Segment) -> None:
        """Says that the segment's journal will not grow any more."""
        self._folder.append(segment.token + ".idx", _record(SEALED, bytes(16), int(segment.token, 16), 0, bytes(16)))

    def _evict(self, budget: int, keep: str = "") -> None:
        """Unlinks least recently used segments until all of them fit into ``budget`` bytes."""
        found = []
        for name in self._folder.names():
            status = self._folder.status(name) if is_journal(name, ".npy") else None
            if status is not None:
                found.append((status.st_mtime_ns, status.st_size, name[:16]))
        total = sum(size for _, size, _ in found)
        for _, size, token in sorted(found):
            if total <= budget:
                return
            if token != keep:
                self.evicted += self._live.get(token, 0)
                self._unlink(token)
                total -= size

    def _unlink(self, token: str) -> None:
        self._folder.delete(token + ".idx")
        self._folder.delete(token + ".npy")
        self._forget(token)

    def _delete(self, key: Key) -> bool:
        with self._lock:
            self._refresh()
            if key.digest not in self._index:
                return False
            for place in [self._index[key.digest], *self._copies.get(key.digest, [])]:
                self._bury(self._segments[place >> SLOT_BITS], place & _MASK, key.digest)
            return True

    def _bury(self, segment: Segment, slot: int, digest: bytes) -> None:
        """Never serves this slot again, here (at once) and in other processes (through the journal)."""
        with self._lock:
            if segment.token not in self._numbers:
                return
            self._kill(segment.token, slot, digest)
            if self.options.read_only:
                return
            if self._pid != os.getpid():
                self._become_writer()
            if not self._live.get(segment.token):
                self._unlink(segment.token)  # needs no space: a full disk can be emptied
                return
            if not self._tomb_name:
                name = secrets.token_hex(8) + ".del"
                self._folder.publish(name, [header_record(name[:16])], replace=False)
                self._tomb_name = name
            try:
                self._folder.append(self._tomb_name, _record(DEAD, digest, int(segment.token, 16), slot, bytes(16)))
            except OSError:
                self._tomb_name = ""
                raise

    def _kill(self, token: str, slot: int, digest: bytes) -> None:
        self._dead.setdefault(token, set()).add(slot)
        number = self._numbers.get(token)
        if number is None:
            return
        segment = self._segments[number]
        segment.trusted.discard(slot)
        if segment.sums.pop(slot, None) is not None:
            self._live[token] -= 1
            self._remove(digest, number << SLOT_BITS | slot)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def orphans(self) -> list[str]:
        """What dead processes left half made: temporary files, and journals and segments without each other."""
        try:
            names = set(self._folder.names())
        except FileNotFoundError:
            return []
        found = [name for name in names if self._folder.is_orphan(name)]
        for name in names:
            token = name[:16]
            if is_journal(name, ".npy") and token + ".idx" not in names and self._folder.status(token + ".idx") is None:
                found.append(name)  # journals are made first and removed first
            elif is_journal(name, ".idx") and token + ".npy" not in names and self._maker_is_dead(name):
                found.append(name)
        return found

    def sweep(self) -> int:
        """Removes the orphans; how many there were."""
        return sum(self._folder.delete(name) for name in self.orphans())

    def trim(self) -> int:
        """Removes the least recently used segments until the budget is kept; how many entries left."""
        before = self.evicted
        if self.options.disk_bytes is not None:
            self._evict(self.options.disk_bytes)
        return self.evicted - before

    def _maker_is_dead(self, journal: str) -> bool:
        maker = journal_owner(self._folder, journal)
        return maker is None or maker.alive() is False

    def _extra_stats(self) -> dict[str, Any]:
        with self._lock:
            self._refresh()
            size = 0
            for name in self._folder.names():
                status = self._folder.status(name) if is_journal(name, ".npy") else None
                size += status.st_blocks * 512 if status else 0
            number = len(self._numbers)
            return {"entries": len(self._index), "bytes": size, "budget": self.options.disk_bytes, "segments": number}

    def close(self) -> None:
        if self._closed:
            return
        super().close()
        if self._pid == os.getpid() and is_tagged(self._root):
            for segment, _ in self._open.values():
                with contextlib.suppress(OSError):  # unsealed, its journal is looked at again and again: no more
                    self._seal(segment)
        self._index, self._open = {}, {}
        self._folder.close()
        self._root.close()


def _record(kind: int, digest: bytes, token: int, slot: int, total: bytes) -> bytes:
    return seal(kind.to_bytes(8, "little") + digest + token.to_bytes(8, "little") + slot.to_bytes(8, "little") + total)


def header_record(token: str) -> bytes:
    """The first record of a journal: who writes it."""
    maker = me()
    who = maker.host.to_bytes(8, "little") + maker.start.to_bytes(8, "little")
    return _record(HEADER, who, int(token, 16), maker.pid, bytes(16))


def journal_owner(folder: Folder, name: str) -> Owner | None:
    """Who writes a journal; None if its first record does not say."""
    data = folder.read(name, limit=64)
    if len(data) != 64 or seal(data[:56]) != data or int.from_bytes(data[:8], "little") != HEADER:
        return None
    host, start = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    return Owner(host, int.from_bytes(data[32:40], "little"), start)
