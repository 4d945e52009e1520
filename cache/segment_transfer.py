"""Packed segments of one cache for another: a whole segment at once where most of it is new, else entry by entry.

A segment appears here as any other does: first its journal, with no entries, then the segment. Then every entry is
checked in the file that is here now, and the records of those that are good are appended in one write. So whoever dies
before that has published nothing, and the next opening sweeps what is left.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .errors import IntegrityError
from .journal import is_journal, valid
from .key import Key
from .linking import carry
from .packed import PackedStore
from .segment import DATA, Segment
from .segment_journal import RECORD, entry_record, header_record, is_abandoned, sealed_record


@dataclass
class Tally:
    """What became of the entries of one part.

    Attributes:
        imported: are new here. present: were here already. linked: of the imported ones, those that were not copied.
        damaged: were left out, because their bytes, or the record of them, are not those that were put.
        conflicts: were left out, because the entry here holds other bytes, which stay.
        sources, notes: records that are new here.
    """

    imported: int = 0
    present: int = 0
    linked: int = 0
    damaged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    sources: int = 0
    notes: int = 0

    def counts(self) -> dict[str, int]:
        """Return how many entries and records there are of each kind."""
        return {name: len(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    def document(self, part: str) -> dict[str, Any]:
        """Return plain JSON values; ``damaged`` and ``conflicts`` are lists of keys."""
        return {"part": part, **vars(self)}


class _Entry(NamedTuple):
    slot: int
    digest: bytes
    total: bytes


def damaged_records(store: PackedStore) -> list[str]:
    """Return the keys of entries of which a journal holds nothing but a damaged record, as far as that still says."""
    found: set[bytes] = set()
    for name in store._folder.names():
        if is_journal(name, ".idx"):
            with suppress(FileNotFoundError, IntegrityError):  # gone, or shrinking
                data = store._folder.read(name)
                records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)[1:]  # without its header
                found.update(records["key"][~valid(records)].tolist())
    return [digest.hex() for digest in sorted(found) if any(digest) and digest not in store._slots.places]


class SegmentTransfer:
    """Adds the entries of ``part``, which is only read, to ``store``; both have the same keyed checksums.

    ``tally`` counts what became of them; ``link``: link segments that will not grow any more, where that is
    possible; ``tick`` is called with the number of entries done.
    """

    def __init__(
        self, store: PackedStore, part: PackedStore, tally: Tally, link: bool, tick: Callable[[int], None]
    ) -> None:
        self._store, self._part, self._tally, self._link, self._tick = store, part, tally, link, tick

    def run(self) -> None:
        """Do it. Raises OSError."""
        slots = self._part._slots
        self._tally.damaged += damaged_records(self._part)
        with self._part._lock:
            ended = self._part._ended(is_abandoned)
            entries = slots.entries(set(slots.numbers))
        for token in sorted(entries):
            segment = slots.segment(token)
            live = [
                _Entry(slot, digest, total)
                for slot, digest in sorted(entries[token])
                if (total := segment.sums.get(slot)) is not None
            ]
            new = [entry for entry in live if self._is_new(entry)]
            if new and (2 * len(new) < len(live) or not self._take(segment, new, token in ended)):
                self._put(new)
            self._tick(len(live))

    def _is_new(self, entry: _Entry) -> bool:
        there = self._sums(entry.digest)
        if there and entry.total in there:
            self._tally.present += 1
        elif there:
            self._tally.conflicts.append(entry.digest.hex())
        return not there

    def _sums(self, digest: bytes) -> set[bytes | None]:
        with self._store._lock:
            return {segment.sums.get(slot) for segment, slot in self._store._slots.slots_of(digest)}

    def _take(self, segment: Segment, new: list[_Entry], ended: bool) -> bool:
        """Take over a whole segment; return False if that cannot be, and nothing was changed. Raises OSError."""
        folder = self._store._folder
        mine = Segment(folder, secrets.token_hex(8))  # of its own: slots of the old name may be dead here
        journal = mine.name[: -len("npy")] + "idx"
        good: list[_Entry] = []  # while it is empty, nothing was published
        try:
            segment.read_header()
            folder.publish(journal, [header_record(mine.token)], replace=False)
            size = DATA + self._part._slots.used(segment.token) * segment.entry_bytes
            linked = carry(segment.folder, segment.name, folder, mine.name, self._link and ended, size)
            good = self._checked(mine, new)
            if good:
                records = [entry_record(mine.token, *entry) for entry in good]
                folder.append(journal, b"".join([*records, sealed_record(mine.token)]))
                folder.sync(journal)
        except IntegrityError:  # its header is damaged, or it is shorter than that says
            return False
        finally:
            if not good:
                folder.delete(journal)
                folder.delete(mine.name)
        with self._store._lock:
            self._store._refresh()
        self._tally.imported += len(good)
        self._tally.linked += len(good) if linked else 0
        return True

    def _checked(self, mine: Segment, entries: list[_Entry]) -> list[_Entry]:
        """Return the entries whose bytes, in the file that is here now, are those that were put.

        Raises IntegrityError if the file is no segment that can be served.
        """
        mine.map()
        for entry in entries:
            mine.sums[entry.slot] = entry.total
        good: list[_Entry] = []
        bad: list[_Entry] = []
        for entry in entries:
            try:
                fits = mine.check(entry.digest, entry.slot, self._store.options.secret)
            except IntegrityError:
                fits = False
            (good if fits else bad).append(entry)
        self._tally.damaged += [entry.digest.hex() for entry in bad]
        return good

    def _put(self, entries: list[_Entry]) -> None:
        """Put entries one by one, as any other is put. Raises OSError."""
        for entry in entries:
            array = self._part.get(Key(entry.digest))
            if array is None:
                self._tally.damaged.append(entry.digest.hex())
                continue
            self._store.put(Key(entry.digest), array)
            self._tally.imported += 1
