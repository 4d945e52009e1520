"""Keeping the notes on what entries were made of in proportion to the entries.

Notes are written with entries, and entries are evicted. So when the notes that were added since the last pruning are
as many as those that it kept (and fill at least a mebibyte), those of entries that are gone are dropped. Nothing else
is: ``purge`` finds a patient's entries by their notes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable

import numpy as np

from .errors import IntegrityError
from .files import Folder
from .journal import is_journal, valid
from .key import Key
from .notes import RECORD, SUFFIX

QUIET = 600.0  # seconds: a note is written before its entry, which is there by then
LEAST = 1 << 20  # bytes


def is_due(folder: Folder, least: int = LEAST) -> bool:
    """Whether the notes that may be pruned have doubled since they last were, which leaves one large journal."""
    sizes = [status.st_size for name in _quiet(folder) if (status := folder.status(name))]
    return sum(sizes) - max(sizes, default=0) >= max(least, *sizes, 0)


def prune(folder: Folder, alive: Callable[[Key], bool]) -> int:
    """Make one journal of those that nobody has added to for ten minutes; return how many notes it does without.

    Left out are notes of entries that are not ``alive``, all but the last note of an entry, and damaged ones. Raises
    OSError; nothing is lost then.
    """
    notes: dict[bytes, bytes] = {}
    lengths: dict[str, int] = {}
    before = 0
    for name in _quiet(folder):
        with contextlib.suppress(
            FileNotFoundError, PermissionError, IntegrityError
        ):  # removed, another user's, shrinking
            data = folder.read(name)
            records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
            before += len(records)
            lengths[name] = len(data)
            for record in records[valid(records)]:
                key = bytes(record["key"])
                notes.pop(key, None)
                notes[key] = record.tobytes()
    kept = [record for key, record in notes.items() if alive(Key(key))]
    if len(lengths) <= 1 and len(kept) == before:
        return 0
    if kept:
        merged = secrets.token_hex(8) + SUFFIX
        folder.publish(merged, [b"".join(kept)], replace=False)
        folder.sync(merged)
    for name, length in lengths.items():
        with contextlib.suppress(FileNotFoundError), folder.open(name) as fd:
            if os.fstat(fd).st_size == length:  # else somebody goes on with it after all: some notes are there twice
                folder.delete(name)
    return before - len(kept)


def _quiet(folder: Folder) -> list[str]:
    """Return the journals that nobody has added to for a while, the oldest first."""
    found = [(status, name) for name in folder.names() if is_journal(name, SUFFIX) and (status := folder.status(name))]
    ordered = sorted((status.st_mtime_ns, name) for status, name in found)
    return [name for changed, name in ordered if abs(time.time_ns() - changed) > QUIET * 1e9]
