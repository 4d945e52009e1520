"""Tables over flat arrays, for millions of entries: a few tens of bytes each, and taken in by the array.

``Places`` maps keys to integers, ``Sums`` maps slots to checksums, ``Slots`` is a set of slots; each acts like the dict
or set that it stands for. Threads that change one must take turns; ``Places.get`` may be called at any time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Longs = np.ndarray[Any, np.dtype[np.int64]]
_SMALLEST = 64
_WORDS = struct.Struct("=QQ").unpack


class _State(NamedTuple):
    """Arrays of one size, exchanged as a whole, and the same memory for single look-ups."""

    table: Array  # int32[m]: number of an entry, or -1
    keys: Array  # uint64[n, 2]
    values: Array  # int64[n]: -1 for an entry that was removed
    table_view: memoryview
    keys_view: memoryview
    values_view: memoryview

    @classmethod
    def of(cls, table: Array, keys: Array, values: Array) -> _State:
        return cls(table, keys, values, table.data, keys.reshape(-1).data, values.data)


class Places:
    """16-byte keys and integers from 0: an open-addressed table of the numbers of entries, which lie in flat arrays."""

    def __init__(self) -> None:
        self._count = self._live = 0  # entries in the arrays, and those that were not removed
        self._state = self._empty(_SMALLEST)

    @staticmethod
    def _empty(capacity: int) -> _State:
        size = max(_SMALLEST, capacity * 3 // 2)
        return _State.of(
            np.full(size, -1, np.int32), np.zeros((capacity, 2), np.uint64), np.full(capacity, -1, np.int64)
        )

    def __len__(self) -> int:
        return self._live

    def __iter__(self) -> Iterator[bytes]:
        return (digest for digest, _ in self.items())

    def __contains__(self, digest: bytes) -> bool:
        return bool(self.get(digest, -1) >= 0)

    def __getitem__(self, digest: bytes) -> int:
        value = self.get(digest, -1)
        if value < 0:
            raise KeyError(digest)
        return int(value)

    def get(self, digest: bytes, default: Any = None) -> Any:
        """Return the value of a key, or ``default``."""
        state = self._state
        table, words = state.table_view, state.keys_view
        low, high = _WORDS(digest)
        at = (low ^ high) % len(table)
        while (number := table[at]) >= 0:
            if words[2 * number] == low and words[2 * number + 1] == high:
                value = state.values_view[number]
                return value if value >= 0 else default
            at = at + 1 if at + 1 < len(table) else 0
        return default

    def get_many(self, digests: Iterable[bytes]) -> Longs:
        """Return int64[n], the values of keys, -1 for those that are not there."""
        keys = np.frombuffer(bytearray(b"".join(digests)), np.uint64).reshape(-1, 2)
        state = self._state
        numbers = _find(state, keys)
        return np.where(numbers >= 0, state.values[numbers], -1)

    def __setitem__(self, digest: bytes, value: int) -> None:
        state = self._state
        table, words = state.table_view, state.keys_view
        low, high = _WORDS(digest)
        at = (low ^ high) % len(table)
        while (number := table[at]) >= 0:
            if words[2 * number] == low and words[2 * number + 1] == high:
                self._live += state.values_view[number] < 0
                state.values_view[number] = value
                return
            at = at + 1 if at + 1 < len(table) else 0
        if self._count == len(state.values):
            self._grow(1)
            self[digest] = value
            return
        words[2 * self._count], words[2 * self._count + 1] = low, high
        state.values_view[self._count] = value
        table[at] = self._count  # last: whoever finds it finds all of it
        self._count += 1
        self._live += 1

    def setdefault(self, digest: bytes, value: int) -> int:
        """Return the value of a key; ``value``, which it gets, if it had none."""
        found = self.get(digest, -1)
        if found < 0:
            self[digest] = value
        return value if found < 0 else int(found)

    def __delitem__(self, digest: bytes) -> None:
        number = int(_find(self._state, np.frombuffer(digest, np.uint64).reshape(1, 2))[0])
        if number < 0 or self._state.values[number] < 0:
            raise KeyError(digest)
        self._state.values[number] = -1
        self._live -= 1

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Give (key, value) of all that is there."""
        return self.between(0, 1 << 62)

    def between(self, low: int, high: int) -> Iterator[tuple[bytes, int]]:
        """Give (key, value) where low <= value < high."""
        state, values = self._state, self._state.values[: self._count]
        for number in np.flatnonzero((values >= low) & (values < high)).tolist():
            value = state.values_view[number]
            if value >= 0:
                yield state.keys[number].tobytes(), value

    def reserve(self, more: int) -> None:
        """Make room for so many entries at once."""
        if self._count + more > len(self._state.values):
            self._grow(more)

    def add(self, keys: Array, values: Longs) -> Array:
        """Give every key that is not there its value; return bool[n], which had another already.

        Args:
            keys: uint64[n, 2], the words of the digests; of one that is there twice the first counts.
            values: int64[n].
        """
        self.reserve(len(keys))
        state, first = self._state, self._count
        known = _find(state, keys)
        there = known >= 0
        had = there & (state.values[known] >= 0)
        again = np.flatnonzero(there & ~had)  # removed once, and back
        for row in again.tolist():
            number = known[row]
            if state.values[number] < 0:
                state.values[number] = values[row]
                self._live += 1
            else:
                had[row] = True
        new = np.flatnonzero(~there)
        state.keys[first : first + len(new)] = keys[new]
        state.values[first : first + len(new)] = values[new]
        self._count += len(new)
        doubles = _place(state, first, len(new))
        state.values[first + doubles] = -1
        self._live += len(new) - len(doubles)
        had[new[doubles]] = True
        return had

    def _grow(self, more: int) -> None:
        """Make room, and leave out what was removed. Readers keep the old arrays until the new ones are complete."""
        old, kept = self._state, np.flatnonzero(self._state.values[: self._count] >= 0)
        need = len(kept) + more
        state = self._empty(max(_SMALLEST, need + (need >> 3 if more < len(kept) else 0)))
        state.keys[: len(kept)] = old.keys[kept]
        state.values[: len(kept)] = old.values[kept]
        _place(state, 0, len(kept))
        self._count = self._live = len(kept)
        self._state = state


def _starts(keys: Array, size: int) -> Longs:
    """Return int64[n], where each key belongs in a table of so many places."""
    return ((keys[:, 0] ^ keys[:, 1]) % np.uint64(size)).astype(np.int64)


def _find(state: _State, keys: Array) -> Longs:
    """int64[n]: the number of the entry of each key, or -1."""
    found = np.full(len(keys), -1, np.int64)
    size, rows = len(state.table), np.arange(len(keys))
    at = _starts(keys, size)
    while len(rows):
        number = state.table[at]
        taken = number >= 0
        rows, at, number = rows[taken], at[taken], number[taken]
        same = (state.keys[number] == keys[rows]).all(axis=1)
        found[rows[same]] = number[same]
        rows, at = rows[~same], (at[~same] + 1) % size
    return found


def _place(state: _State, first: int, count: int) -> Longs:
    """Enter new entries into the table.

    Return which of them (from 0) have the key of an earlier one, and are not entered.
    """
    size, doubles = len(state.table), [np.zeros(0, np.int64)]
    number = np.arange(first, first + count)
    at = _starts(state.keys[number], size)
    while len(number):
        free = state.table[at] < 0
        state.table[at[free][::-1]] = number[free][::-1]  # of several that want one place the first gets it
        holder = state.table[at]
        same = (state.keys[holder] == state.keys[number]).all(axis=1)
        doubles.append(number[same & (holder != number)] - first)
        number, at = number[~same], (at[~same] + 1) % size
    return np.concatenate(doubles)


class Sums:
    """Slots and their 16-byte checksums. There is one for each segment, so it is two plain blocks of bytes."""

    __slots__ = ("_count", "_sums", "_there")

    def __init__(self) -> None:
        self._count = 0
        self._sums, self._there = bytearray(), bytearray()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, slot: int) -> bool:
        there = self._there
        return slot < len(there) and there[slot] == 1

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(np.frombuffer(self._there, np.bool_)).tolist())

    def __getitem__(self, slot: int) -> bytes:
        found = self.get(slot)
        if found is None:
            raise KeyError(slot)
        return found

    def get(self, slot: int) -> bytes | None:
        """Return the checksum of a slot, or None."""
        return bytes(self._sums[16 * slot : 16 * slot + 16]) if slot in self else None

    def __setitem__(self, slot: int, total: bytes) -> None:
        if slot >= len(self._there):
            self._grow(max(slot + 1, min(1 << 16, 2 * len(self._there))))
        self._sums[16 * slot : 16 * slot + 16] = total
        self._count += not self._there[slot]
        self._there[slot] = 1

    def pop(self, slot: int, default: bytes | None = None) -> bytes | None:
        """Remove a slot; return its checksum, or ``default``."""
        found = self.get(slot)
        if found is None:
            return default
        self._there[slot] = 0
        self._count -= 1
        return found

    def has(self, slots: Array) -> Array:
        """Return bool[n], which of the slots are there."""
        there = np.frombuffer(self._there, np.bool_)
        inside = slots < len(there)
        found = np.zeros(len(slots), np.bool_)
        found[inside] = there[slots[inside].astype(np.int64)]
        return found

    def add(self, slots: Array, sums: Array) -> None:
        """Take in slots, each once, and their checksums (V16[n])."""
        if not len(slots):
            return
        slots = slots.astype(np.int64)
        need = int(slots.max()) + 1
        if need > len(self._there):
            self._grow(need)
        there = np.frombuffer(self._there, np.bool_)
        self._count += len(slots) - int(np.count_nonzero(there[slots]))
        np.frombuffer(self._sums, "V16")[slots] = sums
        there[slots] = True

    def _grow(self, size: int) -> None:
        """Take new memory: another thread may look at the old."""
        more = size - len(self._there)
        self._sums, self._there = self._sums + bytes(16 * more), self._there + bytes(more)


class Slots:
    """A set of slots: one byte each."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks = bytearray()

    def __contains__(self, slot: int) -> bool:
        marks = self._marks
        return slot < len(marks) and marks[slot] == 1

    def __len__(self) -> int:
        return sum(self._marks)

    def add(self, slot: int) -> None:
        """Take in a slot."""
        if slot >= len(self._marks):  # in new memory: another thread may look at the old
            self._marks = self._marks + bytes(max(slot + 1, min(1 << 16, 2 * len(self._marks))) - len(self._marks))
        self._marks[slot] = 1

    def discard(self, slot: int) -> None:
        """Leave a slot out."""
        if slot < len(self._marks):
            self._marks[slot] = 0

    def has_all(self, slots: Longs) -> bool:
        """Return whether all of some slots are in it."""
        marks = np.frombuffer(self._marks, np.uint8)
        return bool(len(slots) == 0 or (int(slots.max()) < len(marks) and marks[slots].all()))
