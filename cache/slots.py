"""What a process knows of all packed segments: which slot holds which key, and which slots are dead.

Fed by the records of the journals (:mod:`.packed` describes them). A place is one integer, the segment's number
and the slot, so that a million entries cost a table of integers. A key may lie in several places, when two processes
put it at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .files import Folder
from .journal import is_journal, seal, valid
from .owner import Owner, me
from .segment import SLOT_BITS, Segment

HEADER, ENTRY, DEAD, SEALED = 1, 2, 3, 4  # kinds of records
RECORD = np.dtype(
    [("kind", "<u8"), ("key", "V16"), ("token", "<u8"), ("slot", "<u8"), ("sum", "V16"), ("check", "<u8")]
)
SLOT_MASK = (1 << SLOT_BITS) - 1


def record(kind: int, digest: bytes, token: int, slot: int, total: bytes) -> bytes:
    """One sealed record of a journal."""
    return seal(kind.to_bytes(8, "little") + digest + token.to_bytes(8, "little") + slot.to_bytes(8, "little") + total)


def entry_record(token: str, slot: int, digest: bytes, total: bytes) -> bytes:
    """Publishes a slot."""
    return record(ENTRY, digest, int(token, 16), slot, total)


def dead_record(token: str, slot: int, digest: bytes) -> bytes:
    """Buries a slot."""
    return record(DEAD, digest, int(token, 16), slot, bytes(16))


def sealed_record(token: str) -> bytes:
    """The last record of a journal: it will not grow any more."""
    return record(SEALED, bytes(16), int(token, 16), 0, bytes(16))


def header_record(token: str) -> bytes:
    """The first record of a journal: who writes it."""
    maker = me()
    who = maker.host.to_bytes(8, "little") + maker.start.to_bytes(8, "little")
    return record(HEADER, who, int(token, 16), maker.pid, bytes(16))


def journal_owner(folder: Folder, name: str) -> Owner | None:
    """Who writes a journal; None if its first record does not say."""
    data = folder.read(name, limit=64)
    if len(data) != 64 or seal(data[:56]) != data or int.from_bytes(data[:8], "little") != HEADER:
        return None
    host, start = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    return Owner(host, int.from_bytes(data[32:40], "little"), start)


def is_left(folder: Folder, name: str) -> bool:
    """Whether the writer of a journal is known to be dead."""
    with contextlib.suppress(OSError):
        maker = journal_owner(folder, name)
        return maker is not None and maker.alive() is False
    return False


def read_records(folder: Folder, name: str) -> np.ndarray[Any, Any]:
    """The valid records of a journal."""
    data = folder.read(name)
    records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
    good: np.ndarray[Any, Any] = records[valid(records)]
    return good


def segment_files(folder: Folder) -> Iterator[tuple[str, os.stat_result]]:
    """(token, stat) of every segment in the folder."""
    for name in folder.names():
        status = folder.status(name) if is_journal(name, ".npy") else None
        if status is not None:
            yield name[:16], status


def orphans(folder: Folder) -> list[str]:
    """What dead processes left half made: temporary files, journals and segments without each other or any entry."""
    try:
        names = set(folder.names())
    except FileNotFoundError:
        return []
    found = [name for name in names if folder.is_orphan(name)]
    for name in names:
        segment, journal = name[:16] + ".npy", name[:16] + ".idx"
        if is_journal(name, ".npy") and journal not in names and folder.status(journal) is None:
            found.append(name)  # journals are made first and removed first
        elif is_journal(name, ".idx") and _is_unfinished(folder, name, segment in names):
            found += [name for name in (journal, segment) if name in names]
    return found


def _is_unfinished(folder: Folder, journal: str, has_segment: bool) -> bool:
    """Whether a dead process has left a journal without a segment, or without a record of any slot."""
    try:
        if has_segment and (status := folder.status(journal)) and status.st_size > RECORD.itemsize:
            return False
        maker = journal_owner(folder, journal)
    except (FileNotFoundError, PermissionError):  # removed meanwhile, or another user's
        return False
    return maker is None or maker.alive() is False


class SlotIndex:
    """Not safe for several threads that change it; ``places`` may be read at any time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.places: dict[bytes, int] = {}  # digest -> where to read it
        self.segments: list[Segment] = []  # by number
        self.numbers: dict[str, int] = {}  # token -> number, of segments that are there
        self._copies: dict[bytes, list[int]] = {}  # further places of a digest
        self._dead: dict[str, set[int]] = {}
        self._live: dict[str, int] = {}

    def live(self, token: str) -> int:
        """How many slots of a segment hold entries."""
        return self._live.get(token, 0)

    def used(self, token: str) -> int:
        """How many slots from the first one on hold all that was ever published; dead ones may still be read by whoever
        got them before.
        """
        slots = {*self._dead.get(token, ()), *self.segment(token).sums}
        return max(slots) + 1 if slots else 0

    def segment(self, token: str) -> Segment:
        """The segment of a token, new if it was not known."""
        number = self.numbers.get(token)
        if number is None:
            number = self.numbers[token] = len(self.segments)
            self.segments.append(Segment(self._folder, token))
        return self.segments[number]

    def entries(self, tokens: set[str]) -> dict[str, list[tuple[int, bytes]]]:
        """(slot, digest) of every entry in some segments."""
        found: dict[str, list[tuple[int, bytes]]] = {}
        for digest, first in self.places.items():
            for place in (first, *self._copies.get(digest, [])):
                token = self.segments[place >> SLOT_BITS].token
                if token in tokens:
                    found.setdefault(token, []).append((place & SLOT_MASK, digest))
        return found

    def slots_of(self, digest: bytes) -> list[tuple[Segment, int]]:
        """Every place of a key; the first is the one that is read."""
        first = self.places.get(digest)
        places = [] if first is None else [first, *self._copies.get(digest, [])]
        return [(self.segments[place >> SLOT_BITS], place & SLOT_MASK) for place in places]

    def learn(self, token: str, records: np.ndarray[Any, Any]) -> bool:
        """Takes in new records of a segment's journal; whether it is complete now."""
        segment = self.segment(token)
        own = records["token"] == int(token, 16)
        entries = records[own & (records["kind"] == ENTRY)]
        dead, base = self._dead.get(token, set()), self.numbers[token] << SLOT_BITS
        for digest, slot, total in entries[["key", "slot", "sum"]].tolist():
            if slot <= SLOT_MASK and slot not in dead and slot not in segment.sums:
                segment.sums[slot] = total
                self._live[token] = self.live(token) + 1
                place = base | slot
                if self.places.setdefault(digest, place) != place:
                    self._copies.setdefault(digest, []).append(place)
        return bool(np.any(own & (records["kind"] == SEALED)))

    def bury(self, records: np.ndarray[Any, Any]) -> bool:
        """Takes in new records of a journal of dead slots; whether it is complete now."""
        dead = records[records["kind"] == DEAD]
        for token, slot, digest in dead[["token", "slot", "key"]].tolist():
            self.kill(f"{token:016x}", slot, digest)
        return bool(np.any(records["kind"] == SEALED))

    def publish(self, segment: Segment, slot: int, digest: bytes, total: bytes) -> None:
        """Notes a slot that this process has just written; it is read from now on."""
        segment.sums[slot] = total
        self._live[segment.token] = self.live(segment.token) + 1
        place = self.numbers[segment.token] << SLOT_BITS | slot
        old = self.places.get(digest)
        self.places[digest] = place
        if old is not None and old != place:
            self._copies.setdefault(digest, []).append(old)

    def kill(self, token: str, slot: int, digest: bytes) -> None:
        """Never gives this slot again."""
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
        """Drops a segment that is no longer there; what it was."""
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
        for digest in [digest for digest, place in self.places.items() if place >> SLOT_BITS == number]:
            self._remove(digest, self.places[digest])
        segment = self.segments[number]
        segment.sums, segment.trusted, segment.array = {}, set(), None
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
