"""Many entries at once: arrays of one shape gathered into one, and the rows of one array put under many keys.

Of packed segments the rows are copied a segment at a time: from its map where they were checked before, else read from
the file and checked in the memory that is handed out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import IntegrityError
from .files import fill
from .integrity import checksum, checksums, payload, storable
from .key import Key
from .packed import PackedStore
from .segment import DATA, SLOT_BITS, Segment
from .slots import SLOT_MASK

Array = np.ndarray[Any, Any]
Longs = np.ndarray[Any, np.dtype[np.int64]]


class Rows(NamedTuple):
    """Entries of one dtype and shape.

    ``at``: int64[n], which of the keys asked for, ascending; ``array``: [n, ...], memory of its own.
    """

    at: Longs
    array: Array


def get_rows(store: Any, digests: Sequence[bytes]) -> list[Rows]:
    """Return the entries of keys (their 16-byte digests), by dtype and shape; what is in none of them is missing."""
    if isinstance(store, PackedStore):
        return _PackedReader(store, digests).rows()
    return _stacked((at, store.get(Key(digest))) for at, digest in enumerate(digests))


def get_views(store: Any, digests: Sequence[bytes]) -> list[Array | None]:
    """Return for each key what ``store.get`` returns; None too where it must be asked for by itself.

    Packed entries that were not read before are checked a segment at a time. Nobody else's news are looked for.
    """
    if isinstance(store, PackedStore) and store.options.verify != "always":
        return _PackedReader(store, digests).views()
    return [store.get(Key(digest)) for digest in digests]


def put_rows(store: Any, digests: Sequence[bytes], rows: Array) -> None:
    """Put ``rows[i]`` under the i-th key, as ``store.put`` would."""
    if isinstance(store, PackedStore):
        _put_packed(store, digests, rows)
        return
    for digest, row in zip(digests, rows):
        store.put(Key(digest), np.asarray(row))


def _put_packed(store: PackedStore, digests: Sequence[bytes], rows: Array) -> None:
    store._check_open()
    if store._read_only or not digests:
        return
    rows = storable(rows)
    try:
        _put(store, digests, rows)
    except (OSError, MemoryError, IntegrityError) as error:
        store._failed("write", error)


def _put(store: PackedStore, digests: Sequence[bytes], rows: Array) -> None:
    secret = store.options.secret
    shape = rows.shape[1:]
    totals = [checksum(each, rows.dtype, shape, [payload(row)], secret) for each, row in zip(digests, _each(rows))]
    fresh: dict[bytes, int] = {}
    with store._lock:
        store._refresh()
        for at, digest in enumerate(digests):
            if digest not in store._index:
                fresh.setdefault(digest, at)
    new = list(fresh.values())
    _write(store, [digests[at] for at in new], rows if len(new) == len(rows) else rows[new], [totals[at] for at in new])
    store.puts += len(new)
    for at in sorted(set(range(len(digests))) - set(new)):  # there, or more than once among these
        store._put(Key(digests[at]), rows[at, ...])
        store.puts += 1


def _write(store: PackedStore, digests: list[bytes], rows: Array, totals: list[bytes]) -> None:
    """Write entries that are not there yet, a segment's worth at a time."""
    at, tries = 0, 0
    while at < len(digests):
        try:
            segment, count = store._writer.write_rows(digests[at:], rows[at:], totals[at:])
        except FileNotFoundError:  # our segment was evicted between two puts
            tries += 1
            if tries > 1:
                raise
            continue
        store._use(segment)
        at, tries = at + count, 0


def _each(rows: Array) -> Iterator[Array]:
    return (rows[at, ...] for at in range(len(rows)))


def _stacked(entries: Iterable[tuple[int, Array | None]]) -> list[Rows]:
    kinds: dict[tuple[str, tuple[int, ...]], tuple[list[int], list[Array]]] = {}
    for at, array in entries:
        if array is not None:
            positions, arrays = kinds.setdefault((array.dtype.str, array.shape), ([], []))
            positions.append(at)
            arrays.append(array)
    return [Rows(np.array(positions, np.int64), np.stack(arrays)) for positions, arrays in kinds.values()]


class _Part(NamedTuple):
    """The rows that lie in one segment: which keys, and in which slots."""

    segment: Segment
    at: Longs
    slots: Longs


class _PackedReader:
    """One gathering from a packed store. Whatever is not plainly there is asked for again one by one."""

    def __init__(self, store: PackedStore, digests: Sequence[bytes]) -> None:
        self._store, self._digests = store, digests
        self._left: list[int] = []  # to be asked for one by one

    def rows(self) -> list[Rows]:
        self._store._check_open()
        kinds: dict[tuple[str, tuple[int, ...]], list[_Part]] = {}
        for part in self._parts():
            try:
                part.segment.map()
                dtype = part.segment.dtype
                if dtype is None or int(part.slots.max()) >= part.segment.slots:
                    raise IntegrityError("a slot lies outside its segment")
                kinds.setdefault((dtype.str, part.segment.shape), []).append(part)
            except (OSError, IntegrityError):
                self._left += part.at.tolist()
        found = [self._gather(np.dtype(kind), shape, parts) for (kind, shape), parts in kinds.items()]
        found = [rows for rows in found if len(rows.at)]
        if not self._left:
            return found
        single = _stacked((at, self._store.get(Key(self._digests[at]))) for at in sorted(self._left))
        return _joined(found, single)

    def views(self) -> list[Array | None]:
        store = self._store
        store._check_open()
        found: list[Array | None] = [None] * len(self._digests)
        parts: dict[int, list[tuple[int, int]]] = {}  # of each segment, which keys, and their slots
        for at, digest in enumerate(self._digests):
            place = store._index.get(digest)
            if place is not None:
                parts.setdefault(place >> SLOT_BITS, []).append((at, place & SLOT_MASK))
        for number, entries in parts.items():
            segment = store._segments.get(number)
            array = None if segment is None else segment.array  # once: another thread may forget it meanwhile
            if segment is None:
                continue
            good = entries
            if array is None or not all(slot in segment.trusted for _, slot in entries):
                with contextlib.suppress(OSError, IntegrityError):
                    array, good = segment.map(), self._trusted(segment, entries)
            if array is not None and good:
                for at, slot in good:
                    found[at] = array[slot, ...]
                store._use(segment)
                store.hits += len(good)
        return found

    def _trusted(self, segment: Segment, entries: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the entries of a segment that may be served, after a check of those that were not read before."""
        trusted, verify, size, dtype = segment.trusted, self._store.options.verify, segment.entry_bytes, segment.dtype
        fresh = [(at, slot) for at, slot in entries if slot not in trusted and slot < segment.slots]
        row = memoryview(bytearray(size))
        total = checksums(dtype or np.dtype(np.uint8), segment.shape, self._store.options.secret)
        with segment.folder.open(segment.name) as fd:
            status = os.fstat(fd)
            if (status.st_ino, status.st_size) != segment.identity:
                return []  # another file has taken its place
            for at, slot in fresh:
                if verify == "first":
                    fill(fd, DATA + slot * size, row)
                if verify == "never" or total(self._digests[at], row) == segment.sums.get(slot):
                    trusted.add(slot)
        return [(at, slot) for at, slot in entries if slot in trusted]

    def _parts(self) -> list[_Part]:
        places = self._places()
        numbers = places >> SLOT_BITS
        there = np.flatnonzero(places >= 0)
        order = there[np.argsort(numbers[there], kind="stable")]
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        parts = []
        for at in np.split(order, cuts) if len(order) else []:
            try:
                segment = self._store._segments[int(numbers[at[0]])]
            except LookupError:  # forgotten meanwhile by another thread
                self._left += at.tolist()
                continue
            parts.append(_Part(segment, at, places[at] & SLOT_MASK))
        return parts

    def _places(self) -> Longs:
        """Return where each key lies, or -1."""
        store = self._store
        places = store._index.get_many(self._digests)
        if (places < 0).any():
            try:
                with store._lock:
                    store._refresh()
            except OSError as error:
                store._failed("read", error)
            places = store._index.get_many(self._digests)
            store.misses += int((places < 0).sum())
        return places

    def _gather(self, dtype: np.dtype[Any], shape: tuple[int, ...], parts: list[_Part]) -> Rows:
        """Return the rows of one dtype and shape, in the order of their keys."""
        at = np.sort(np.concatenate([part.at for part in parts]))
        out = np.empty((len(at), *shape), dtype)
        good = np.ones(len(at), np.bool_)
        for part in parts:
            to = np.searchsorted(at, part.at)
            try:
                good[to] = self._copy(part, out, to)
                self._store._use(part.segment)
            except (OSError, IntegrityError):
                good[to] = False
        self._store.hits += int(good.sum())
        if good.all():
            return Rows(at, out)
        self._left += at[~good].tolist()
        return Rows(at[good], out[good])

    def _copy(self, part: _Part, out: Array, to: Longs) -> Any:
        """Copy the rows of one segment to the places ``to``; return which are as they were put, bool[n]."""
        verify, trusted = self._store.options.verify, part.segment.trusted
        if verify == "never" or (verify == "first" and trusted.has_all(part.slots)):
            array = part.segment.map()
            if len(to) == len(out):
                np.take(array, part.slots, axis=0, out=out, mode="clip")
            else:
                out[to] = array[part.slots]
            return True
        good = np.zeros(len(to), np.bool_)
        with part.segment.folder.open(part.segment.name) as fd:
            status = os.fstat(fd)
            size = status.st_size
            if (status.st_ino, size) != part.segment.identity:
                return False  # another file has taken its place
            for row, (slot, place) in enumerate(zip(part.slots.tolist(), to.tolist())):
                good[row] = self._check(part.segment, fd, size, slot, out[place, ...], self._digests[part.at[row]])
        return good

    def _check(self, segment: Segment, fd: int, size: int, slot: int, row: Array, digest: bytes) -> bool:
        """Read a slot into ``row``; return whether it is what was put."""
        total, start = segment.sums.get(slot), DATA + slot * segment.entry_bytes
        if total is None or start + segment.entry_bytes > size:
            return False
        fill(fd, start, payload(row))
        if checksum(digest, row.dtype, row.shape, [payload(row)], self._store.options.secret) != total:
            return False
        if self._store.options.verify == "first":
            segment.trusted.add(slot)
        return True


def _joined(one: list[Rows], two: list[Rows]) -> list[Rows]:
    """Return rows of the same dtype and shape as one."""
    kinds: dict[tuple[str, tuple[int, ...]], list[Rows]] = {}
    for rows in (*one, *two):
        kinds.setdefault((rows.array.dtype.str, rows.array.shape[1:]), []).append(rows)
    found = []
    for parts in kinds.values():
        at = np.concatenate([part.at for part in parts])
        order = np.argsort(at)
        found.append(Rows(at[order], np.concatenate([part.array for part in parts])[order]))
    return found
