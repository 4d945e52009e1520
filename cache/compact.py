"""Merges small packed segments, which many short runs leave, into few large ones.

Only segments that will not grow further are merged: sealed ones, those whose writer has died, and those whose writer
is of another host and has written nothing for an hour. Their live slots are copied as they are, checksums included,
into a segment of exactly their number.

1. The copy is made in full and reaches the disk; no record names its slots yet, so nobody reads it.
2. Under the folder's lock, in which every deletion is also made: what is dead by now is left out, the records of the
   rest are appended and reach the disk, and the old segments are unlinked.

Whoever is killed before the records leaves two files that the next opening sweeps or the next merge drops; after them
an entry lies in two places, which is nothing new to a reader. Readers keep the pages that they have mapped; who looks
for an old segment finds it gone and reads the journals again. On a folder without locks nothing is merged.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import IntegrityError
from .files import Folder, chunks
from .journal import is_journal
from .lock import can_lock, exclusive
from .npyformat import header
from .segment import DATA, LARGEST, MOST_SLOTS, Segment
from .segment_journal import (
    DEAD,
    SEALED,
    entry_record,
    header_record,
    is_abandoned,
    read_records,
    sealed_record,
    segment_files,
)
from .slots import SlotIndex

Move = tuple[Segment, int, bytes, bytes]
"""A slot to be copied: its segment, number, key and checksum."""


@dataclass(frozen=True)
class Merge:
    """Segments that will be one.

    ``moves`` in the order of the new slots; ``doubles``: entries that are there once more, and not copied.
    """

    old: list[Segment]
    moves: list[Move]
    doubles: list[Move]


class Compactor:
    """Merges in one folder, for the store that owns ``slots``; its lock is held meanwhile.

    ``refresh`` takes in what others did; ``unlink(token)`` removes a segment; ``budget``: bytes on disk, or None.
    """

    def __init__(
        self,
        folder: Folder,
        slots: SlotIndex,
        refresh: Callable[[], None],
        unlink: Callable[[str], None],
        budget: int | None,
    ) -> None:
        self._folder, self._slots, self._refresh, self._unlink, self._budget = folder, slots, refresh, unlink, budget

    def merge(self, ended: set[str], dry_run: bool) -> int:
        """Merge the segments that are worth it among those that will not grow any further (``ended``).

        Return how many fewer there are, or would be. Raises OSError; nothing is lost then.
        """
        merges = self._plan(ended)
        if dry_run:
            return sum(len(merge.old) - bool(merge.moves) for merge in merges)
        if merges and not can_lock(self._folder):  # known before anything is copied
            raise self._without_locks()
        fewer = sum(self._run(merge) for merge in merges)
        self._drop_tombs()
        return fewer

    def shrink(self, token: str, kept: int, bury: Callable[[Segment, int, bytes], None]) -> bool:
        """Copy the latest ``kept`` entries of a segment that will not grow any further into a smaller one.

        The others are buried first. Return whether that was possible: if not, the segment is still there. Raises
        OSError.
        """
        segment = self._slots.segment(token)
        entries = sorted(self._slots.entries({token}).get(token, []))
        if not can_lock(self._folder):
            return False
        with exclusive(self._folder):
            for slot, digest in entries[: max(0, len(entries) - kept)]:
                bury(segment, slot, digest)
        moves = [(segment, slot, digest, segment.sums[slot]) for slot, digest in entries[-kept:]]
        self._run(Merge([segment], moves, []))
        return token not in self._slots.numbers

    def _plan(self, ended: set[str]) -> list[Merge]:
        largest = min(LARGEST, self._budget // 16) if self._budget else LARGEST
        kinds: dict[tuple[str, tuple[int, ...]], list[Segment]] = {}
        for token in sorted(ended & self._slots.numbers.keys()):
            segment = self._slots.segment(token)
            with contextlib.suppress(IntegrityError, OSError):  # damaged or gone, as whoever reads it will find
                segment.read_header()
                if segment.dtype is not None and len(segment.sums) * segment.entry_bytes <= largest // 4:
                    kinds.setdefault((segment.dtype.str, segment.shape), []).append(segment)
        merges: list[Merge] = []
        for segments in kinds.values():
            most = max(1, min(MOST_SLOTS, largest // max(1, segments[0].entry_bytes)))
            merges += self._pack(sorted(segments, key=lambda segment: len(segment.sums)), most)
        return [merge for merge in merges if self._worth(merge)]

    def _worth(self, merge: Merge) -> bool:
        """Whether there will be fewer segments, or one of less than half the size."""
        live = len(merge.moves)
        return len(merge.old) > 1 or not live or self._slots.used(merge.old[0].token) > 2 * live

    def _pack(self, segments: list[Segment], most: int) -> list[Merge]:
        leaving = {segment.token for segment in segments}
        entries = self._slots.entries(leaving)
        merges: list[Merge] = []
        seen: set[tuple[bytes, bytes]] = set()
        for segment in segments:
            if not merges or len(merges[-1].moves) + len(segment.sums) > most:
                merges.append(Merge([], [], []))
            merges[-1].old.append(segment)
            for slot, digest in entries.get(segment.token, []):
                total = segment.sums[slot]
                double = (digest, total) in seen or self._elsewhere(digest, total, leaving)
                (merges[-1].doubles if double else merges[-1].moves).append((segment, slot, digest, total))
                seen.add((digest, total))
        return merges

    def _elsewhere(self, digest: bytes, total: bytes, leaving: set[str]) -> bool:
        """Whether a segment that stays holds the same entry."""
        places = self._slots.slots_of(digest)
        return len(places) > 1 and any(
            segment.sums.get(slot) == total and segment.token not in leaving for segment, slot in places
        )

    def _run(self, merge: Merge) -> int:
        """Do one merge; return how many fewer segments there are."""
        first, count = merge.old[0], len(merge.moves)
        size = DATA + count * first.entry_bytes
        if self._budget and self._used() + size > self._budget:
            return 0  # both copies would not fit
        token, there = secrets.token_hex(8), False
        try:
            if count:
                self._folder.publish(token + ".idx", [header_record(token)], replace=False)
                self._folder.publish(token + ".npy", self._copy(merge), size, replace=False, sync=True)
            with exclusive(self._folder) as held:
                if not held:
                    raise self._without_locks()
                there = self._publish(merge, token)
                return self._unlink_old(merge) - there
        except IntegrityError:
            return 0  # an old segment is shorter than it says: whoever reads it will set it aside
        finally:
            if not there:
                self._drop(token)

    def _without_locks(self) -> OSError:
        return OSError(f"{self._folder.path} cannot be locked, so its segments cannot be merged")

    def _drop(self, token: str) -> None:
        """Remove a copy that is not needed, or was not finished."""
        with contextlib.suppress(OSError):
            self._unlink(token)

    def _copy(self, merge: Merge) -> Iterator[Any]:
        """Yield the parts of the new segment."""
        first = merge.old[0]
        yield header(np.dtype(first.dtype), (len(merge.moves), *first.shape), DATA)
        for segment, slot, _, _ in merge.moves:
            yield from self._entry(segment, slot)

    def _entry(self, segment: Segment, slot: int) -> Iterator[Any]:
        """Yield the bytes of a slot, or zeros if its segment has been removed meanwhile."""
        try:
            with self._folder.open(segment.name) as fd:
                yield from chunks(fd, DATA + slot * segment.entry_bytes, segment.entry_bytes)
        except FileNotFoundError:
            self._slots.forget(segment.token)  # so none of its entries is published again
            yield bytes(segment.entry_bytes)

    def _publish(self, merge: Merge, token: str) -> bool:
        """Append the records of what has not been deleted, replaced or evicted meanwhile.

        Return whether there was any.
        """
        self._refresh()
        records = [
            entry_record(token, at, digest, total)
            for at, (old, slot, digest, total) in enumerate(merge.moves)
            if old.sums.get(slot) == total
        ]
        if not records:
            return False
        used = [status.st_mtime_ns for old in merge.old if (status := self._folder.status(old.name)) is not None]
        self._folder.touch(token + ".npy", max(used, default=None))
        self._folder.append(token + ".idx", b"".join([*records, sealed_record(token)]))
        self._folder.sync(token + ".idx")
        return True

    def _unlink_old(self, merge: Merge) -> int:
        """Remove the old segments, except those with entries that are nowhere else; return how many."""
        leaving = {old.token for old in merge.old}
        copied = {(digest, total) for old, slot, digest, total in merge.moves if old.sums.get(slot) == total}
        safe = {
            (old.token, slot)
            for old, slot, digest, total in [*merge.moves, *merge.doubles]
            if (digest, total) in copied or self._elsewhere(digest, total, leaving)
        }
        done = 0
        for old in merge.old:
            if old.token in self._slots.numbers and all((old.token, slot) in safe for slot in old.sums):
                self._unlink(old.token)
                done += 1
        return done

    def _drop_tombs(self) -> None:
        """Remove the journals that will not grow any further and bury only slots of segments that are gone."""
        buried: dict[str, set[int]] = {}
        for name in self._folder.names():
            if is_journal(name, ".del"):
                left = is_abandoned(self._folder, name)
                with contextlib.suppress(OSError, IntegrityError):  # gone, another user's, or not to be read
                    records = read_records(self._folder, name)  # afterwards: a dead writer's last ones are read too
                    if left or SEALED in records["kind"]:
                        buried[name] = set(records["token"][records["kind"] == DEAD].tolist())
        there = {int(name[:16], 16) for name in self._folder.names() if is_journal(name, ".idx")}
        for name, tokens in buried.items():
            if there.isdisjoint(tokens):
                self._folder.delete(name)

    def _used(self) -> int:
        """Return the bytes that the segments take on disk."""
        return sum(status.st_blocks * 512 for _, status in segment_files(self._folder))
