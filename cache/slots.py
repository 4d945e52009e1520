"""What a process knows of all packed segments: which slot holds which key, and which slots are dead.

Fed by the records of the journals (:mod:`.segment_journal`). A place is one integer made of the segment's number and
the slot, so that a million entries cost a table of integers. A key may lie in several places, when two processes put
it at once. Both are kept in flat tables (:mod:`.flat`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .files import Folder
from .flat import Longs, Places, Slots, Sums
from .segment import SLOT_BITS, Segment
from .segment_journal import DEAD, ENTRY, SEALED

SLOT_MASK = (1 << SLOT_BITS) - 1
Records = np.ndarray[Any, Any]
_AT_ONCE = 1 << 20  # entries


class SlotIndex:
    """What is where. Threads that change it must take turns; ``places`` and ``segments`` may be read at any time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.places = Places()  # digest -> where to read it
        self.segments: dict[int, Segment] = {}  # by number; a number is never used again
        self.numbers: dict[str, int] = {}  # token -> number, of segments that are there
        self._copies: dict[bytes, list[int]] = {}  # further places of a digest
        self._dead: dict[str, set[int]] = {}
        self._live: dict[str, int] = {}
        self._next = 0

    def live(self, token: str) -> int:
        """Return how many slots of a segment hold entries."""
        return self._live.get(token, 0)

    def used(self, token: str) -> int:
        """Return the number of slots, counted from the start, in which every entry ever published lies.

        Dead slots count too, because whoever got them before may still read them.
        """
        slots = {*self._dead.get(token, ()), *self.segment(token).sums}
        return max(slots) + 1 if slots else 0

    def segment(self, token: str) -> Segment:
        """Return the segment of a token; a new one if it was not known."""
        number = self.numbers.get(token)
        if number is None:
            number, self._next = self._next, self._next + 1
            self.segments[number] = Segment(self._folder, token)
            self.numbers[token] = number
        return self.segments[number]

    def entries(self, tokens: set[str]) -> dict[str, list[tuple[int, bytes]]]:
        """Return (slot, digest) of every entry in some segments, by token."""
        found: dict[str, list[tuple[int, bytes]]] = {}
        for token in tokens & self.numbers.keys():
            low = self.numbers[token] << SLOT_BITS
            slots = [(place - low, digest) for digest, place in self.places.between(low, low + SLOT_MASK + 1)]
            if slots:
                found[token] = slots
        for digest, places in self._copies.items():
            for place in places:
                token = self.segments[place >> SLOT_BITS].token
                if token in tokens:
                    found.setdefault(token, []).append((place & SLOT_MASK, digest))
        return found

    def slots_of(self, digest: bytes) -> list[tuple[Segment, int]]:
        """Return every place of a key; the first is the one that is read."""
        first = self.places.get(digest)
        places = [] if first is None else [first, *self._copies.get(digest, [])]
        return [(self.segments[place >> SLOT_BITS], place & SLOT_MASK) for place in places]

    def learn(self, grown: Iterable[tuple[str, Records]]) -> list[str]:
        """Take in new records of the journals of segments (their tokens); return those that are complete now.

        A cache may have tens of thousands of segments, so the index takes many of them at a time.
        """
        complete: list[str] = []
        waiting: list[tuple[Records, Longs]] = []  # keys and places
        count = 0
        try:
            for token, records in grown:
                new, ended = self._new(token, records)
                if ended:
                    complete.append(token)
                waiting.append((new["key"], new["slot"].astype(np.int64) | self.numbers[token] << SLOT_BITS))
                count += len(new)
                if count > _AT_ONCE:
                    self._enter(waiting)
                    count = 0
        finally:  # if one cannot be read, the others are there
            self._enter(waiting)
        return complete

    def _new(self, token: str, records: Records) -> tuple[Records, bool]:
        """Note the checksums of a segment's new entries; return their records, and whether its journal is complete."""
        segment = self.segment(token)
        records = records[records["token"] == int(token, 16)]
        kinds = records["kind"]
        new, ended = records[kinds == ENTRY], bool((kinds == SEALED).any())
        slots, dead = new["slot"], self._dead.get(token)
        if not len(new):
            return new, ended
        if not (slots[:-1] < slots[1:]).all() or slots[-1] > SLOT_MASK:
            new = new[slots <= SLOT_MASK]
            new = new[np.sort(np.unique(new["slot"], return_index=True)[1])]  # of a slot the first counts
        if dead:
            new = new[~np.isin(new["slot"], np.array(sorted(dead), np.uint64))]
        if len(segment.sums):
            new = new[~segment.sums.has(new["slot"])]
        segment.sums.add(new["slot"], new["sum"])
        self._live[token] = self.live(token) + len(new)
        return new, ended

    def _enter(self, waiting: list[tuple[Records, Longs]]) -> None:
        """Take in what waits: keys and places of entries."""
        if not waiting:
            return
        keys = np.concatenate([keys for keys, _ in waiting]).view(np.uint64).reshape(-1, 2)
        places = np.concatenate([places for _, places in waiting])
        waiting.clear()
        for row in np.flatnonzero(self.places.add(keys, places)).tolist():
            self._copies.setdefault(keys[row].tobytes(), []).append(int(places[row]))

    def bury(self, records: np.ndarray[Any, Any]) -> bool:
        """Take in new records of a journal of dead slots; return whether it is complete now."""
        dead = records[records["kind"] == DEAD]
        for token, slot, digest in dead[["token", "slot", "key"]].tolist():
            self.kill(f"{token:016x}", slot, digest)
        return bool(np.any(records["kind"] == SEALED))

    def publish(self, segment: Segment, slot: int, digest: bytes, total: bytes) -> None:
        """Note a slot that this process has just written; it is read from now on."""
        segment.sums[slot] = total
        self._live[segment.token] = self.live(segment.token) + 1
        place = self.numbers[segment.token] << SLOT_BITS | slot
        old = self.places.get(digest)
        self.places[digest] = place
        if old is not None and old != place:
            self._copies.setdefault(digest, []).append(old)

    def kill(self, token: str, slot: int, digest: bytes) -> None:
        """Never give this slot again."""
        self._dead.setdefault(token, set()).add(slot)
        number = self.numbers.get(token)
        if number is None:
            return
        segment = self.segments[number]
        segment.trusted.discard(slot)
        if segment.sums.pop(slot, None) is not None:
            self._live[token] -= 1
            self._remove(digest, number << SLOT_BITS | slot)

    def forget(self, token: str) -> Segment | None:
        """Drop a segment that is no longer there; return what it was."""
        self._dead.pop(token, None)
        self._live.pop(token, None)
        number = self.numbers.pop(token, None)
        if number is None:
            return None
        for digest, places in list(self._copies.items()):
            kept = [place for place in places if place >> SLOT_BITS != number]
            if kept:
                self._copies[digest] = kept
            else:
                del self._copies[digest]
        low = number << SLOT_BITS
        for digest, place in list(self.places.between(low, low + SLOT_MASK + 1)):
            self._remove(digest, place)
        segment = self.segments.pop(number)  # last: whoever knows a place finds its segment until then
        segment.sums, segment.trusted, segment.array = Sums(), Slots(), None
        return segment

    def _remove(self, digest: bytes, place: int) -> None:
        more = self._copies.get(digest, [])
        if place in more:
            more.remove(place)
        elif self.places.get(digest) == place:
            if more:
                self.places[digest] = more.pop(0)
            else:
                del self.places[digest]
        if not more:
            self._copies.pop(digest, None)
