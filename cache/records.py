"""Source records and notes of other caches, added to a cache's own: each once, whatever journal it lies in there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from . import notes, sources
from .access import Access
from .errors import IntegrityError
from .files import Folder
from .journal import is_journal, valid

Records = np.ndarray[Any, Any]
JOURNALS = (("parts", notes.SUFFIX, notes.RECORD), ("sources", sources.SUFFIX, sources.RECORD))
"""Folder, suffix and layout. Notes come first: they are there before the entries that they are of."""


def add_records(path: str, access: Access, suffix: str, record: np.dtype[Any], journals: Iterable[Records]) -> int:
    """Add the records that a folder of journals does not hold yet; return how many. Raises OSError.

    Args:
        path: the folder.
        access: how it is written to.
        suffix: of its journals.
        record: the layout of theirs.
        journals: records that carry their own check; each has a ``mac`` that no other has.
    """
    with closing(Folder(path, access, follow=False)) as ours:
        ours.sweep()
        known, added = known_macs(read_journals(ours, suffix, record)), 0
        for records in journals:
            new, known = unknown(records, known)
            if len(new):
                ours.publish(secrets.token_hex(8) + suffix, [new.tobytes()], replace=False, sync=True)
                added += len(new)
        return added


def unknown(records: Records, known: Records) -> tuple[Records, Records]:
    """Return the records whose macs are not ``known``, uint64[n] sorted, and the macs that are known then."""
    macs, first = np.unique(macs_of(records), return_index=True)
    return records[np.sort(first[~np.isin(macs, known)])], np.union1d(known, macs)


def known_macs(journals: Iterable[Records]) -> Records:
    """Return the macs of all records, uint64[n], sorted."""
    return np.unique(np.concatenate([np.zeros(0, "<u8"), *map(macs_of, journals)]))


def macs_of(records: Records) -> Records:
    """Return the mac of each record, uint64[n]."""
    return np.ascontiguousarray(records["mac"]).view("<u8")


def read_journals(folder: Folder, suffix: str, record: np.dtype[Any]) -> Iterator[Records]:
    """Give the valid records of each journal of a suffix that can be read."""
    for name in sorted(folder.names()):
        if is_journal(name, suffix):
            try:
                data = folder.read(name)
            except (FileNotFoundError, PermissionError, IntegrityError):  # gone, another user's, or shrinking
                continue
            yield records_in(data, record)


def records_in(data: bytes, record: np.dtype[Any]) -> Records:
    """Return the valid records of a journal's bytes."""
    records = np.frombuffer(data, record, len(data) // record.itemsize)
    good: Records = records[valid(records)]
    return good


def journals_in(names: Iterable[str], inner: str, suffix: str) -> list[str]:
    """Return those of a cache's files, named relative to it, that are journals of a suffix in the folder ``inner``."""
    begin = f"{inner}/"
    return sorted(name for name in names if name.startswith(begin) and is_journal(name[len(begin) :], suffix))
