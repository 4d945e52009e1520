"""The records of packed segments' journals, and what their first record tells of who writes them.

Each ``<token>.idx`` and ``<token>.del`` begins with a header record that names its writer. Then ``.idx`` publishes
slots of the segment ``<token>.npy``, ``.del`` buries slots of any segment, and a sealed record says that no more
follow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .errors import IntegrityError
from .files import Folder
from .journal import checks, is_journal, seal, valid
from .owner import Owner, me

HEADER, ENTRY, DEAD, SEALED = 1, 2, 3, 4  # kinds of records
RECORD = np.dtype(
    [("kind", "<u8"), ("key", "V16"), ("token", "<u8"), ("slot", "<u8"), ("sum", "V16"), ("check", "<u8")]
)


def record(kind: int, digest: bytes, token: int, slot: int, total: bytes) -> bytes:
    """Return one sealed record of a journal."""
    return seal(kind.to_bytes(8, "little") + digest + token.to_bytes(8, "little") + slot.to_bytes(8, "little") + total)


def entry_record(token: str, slot: int, digest: bytes, total: bytes) -> bytes:
    """Return the record that publishes a slot."""
    return record(ENTRY, digest, int(token, 16), slot, total)


def entry_records(
    token: str, slots: Sequence[int], digests: Sequence[bytes], totals: Sequence[bytes]
) -> np.ndarray[Any, Any]:
    """Return the records that publish slots, as ``entry_record`` makes each of them."""
    records = np.empty(len(slots), RECORD)
    records["kind"], records["token"], records["slot"] = ENTRY, int(token, 16), slots
    records["key"], records["sum"] = np.frombuffer(b"".join(digests), "V16"), np.frombuffer(b"".join(totals), "V16")
    records["check"] = checks(records)
    return records


def dead_record(token: str, slot: int, digest: bytes) -> bytes:
    """Return the record that buries a slot."""
    return record(DEAD, digest, int(token, 16), slot, bytes(16))


def sealed_record(token: str) -> bytes:
    """Return the last record of a journal, which says that it will not grow any more."""
    return record(SEALED, bytes(16), int(token, 16), 0, bytes(16))


def header_record(token: str) -> bytes:
    """Return the first record of a journal, which says who writes it."""
    maker = me()
    who = maker.host.to_bytes(8, "little") + maker.start.to_bytes(8, "little")
    return record(HEADER, who, int(token, 16), maker.pid, bytes(16))


def journal_owner(folder: Folder, name: str) -> Owner | None:
    """Return who writes a journal; None if its first record does not say."""
    data = folder.read(name, limit=64)
    if len(data) != 64 or seal(data[:56]) != data or int.from_bytes(data[:8], "little") != HEADER:
        return None
    host, start = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    return Owner(host, int.from_bytes(data[32:40], "little"), start)


def is_left(folder: Folder, name: str) -> bool:
    """Return whether the writer of a journal is known to be dead."""
    with contextlib.suppress(OSError, IntegrityError):
        maker = journal_owner(folder, name)
        return maker is not None and maker.alive() is False
    return False


def is_abandoned(folder: Folder, name: str) -> bool:
    """Return whether the writer of a journal is dead, or unknown and has written nothing for an hour.

    If it lives after all, it notices that its journal is gone and begins another.
    """
    with contextlib.suppress(OSError, IntegrityError):
        maker = journal_owner(folder, name)
        return maker is not None and folder.is_left(name, maker)
    return False


def read_records(folder: Folder, name: str) -> np.ndarray[Any, Any]:
    """Return the valid records of a journal."""
    data = folder.read(name)
    records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
    good: np.ndarray[Any, Any] = records[valid(records)]
    return good


def segment_files(folder: Folder) -> Iterator[tuple[str, os.stat_result]]:
    """Give (token, stat) of every segment in the folder."""
    for name in folder.names():
        status = folder.status(name) if is_journal(name, ".npy") else None
        if status is not None:
            yield name[:16], status


def orphans(folder: Folder) -> list[str]:
    """Return what dead processes left half made.

    That is temporary files, and journals and segments without each other or without any entry.
    """
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
        return maker is None or folder.is_left(journal, maker)
    except (OSError, IntegrityError):  # removed meanwhile, another user's, or not to be read
        return False
