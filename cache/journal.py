"""Append-only journals of records of one size, one file per writer, so that writers need no locks.

A record is some 64-bit words of content and a 64-bit check of them; it is published by one O_APPEND write. Readers take
what is complete and valid and ignore the rest: a torn end, a page of zeros, a flipped bit. Files are named
``<16 hex digits><suffix>``; a suffix stands for one layout of records.

check: h = 0x9E3779B97F4A7C15; for each little-endian word w: h = (h ^ w) * 0xFF51AFD7ED558CCD mod 2^64;
  h ^= h >> 32. Every step is a bijection of h, so a change within one word is always found. It is vectorised: a
  million records take 50 ms. It finds accidents, not forgers: where others can write, a record carries a ``mac`` too.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import logging
import os
import secrets
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from .errors import IntegrityError
from .files import Folder, chunks

LOG = logging.getLogger(__name__)
RECORD = 64  # bytes of a record of the packed mode, and of the trailer of an entry that is a file
MAC_BYTES = 8
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no journal is to blame for these
_SMALL = 1 << 20  # bytes; smaller journals are merged
_RELY = 1.0  # seconds for which a folder's time of change is believed: some network folders do not keep it
_SEED, _PRIME, _MASK = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, (1 << 64) - 1


def seal(body: bytes) -> bytes:
    """Return a record: content of whole 64-bit words, and their check."""
    check = _SEED
    for word in struct.unpack(f"<{len(body) // 8}Q", body):
        check = ((check ^ word) * _PRIME) & _MASK
        check ^= check >> 32
    return body + check.to_bytes(8, "little")


def valid(records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return bool[n]: which of ``records`` (any dtype of whole 64-bit words, [n]) carry their own check."""
    good: np.ndarray[Any, Any] = (
        checks(records) == records.view("<u8").reshape(len(records), records.dtype.itemsize // 8)[:, -1]
    )
    return good


def checks(records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return uint64[n], the check of each of ``records``, which ends it in a journal."""
    words = records.view("<u8").reshape(len(records), records.dtype.itemsize // 8)
    check = np.full(len(words), _SEED, "<u8")
    for column in range(words.shape[1] - 1):
        check ^= words[:, column]
        check *= np.uint64(_PRIME)
        check ^= check >> np.uint64(32)
    return check


def mac(key: bytes, body: bytes) -> bytes:
    """Return 8 bytes that only a holder of ``key`` can make for ``body``."""
    return blake2b(body, digest_size=MAC_BYTES, key=key, person=b"dali-pipes mac").digest()


def seal_signed(body: bytes, key: bytes) -> bytes:
    """Return a record whose last fields are the ``mac`` of its content and the check of both."""
    return seal(body + mac(key, body))


def is_signed(record: bytes, key: bytes) -> bool:
    """Whether a record of ``seal_signed`` was made with ``key``."""
    body = record[: -8 - MAC_BYTES]
    return hmac.compare_digest(mac(key, body), record[len(body) : -8])


def is_settled(mtime_ns: int) -> bool:
    """Whether a change from now on would give another mtime.

    Not within the clock's granularity: 2 s for a whole-second mtime (coarse filesystems), else 20 ms.
    """
    coarse = mtime_ns % 1_000_000_000 == 0
    return abs(time.time_ns() - mtime_ns) >= (2_000_000_000 if coarse else 20_000_000)


class JournalReader:
    """Reads the journals of one suffix in a folder, and what has been added to them since the last look."""

    def __init__(self, folder: Folder, suffix: str, dtype: np.dtype[Any]) -> None:
        self._folder, self._suffix, self._dtype, self._size = folder, suffix, dtype, dtype.itemsize
        self._stems: list[str] = []
        self._growing: list[str] = []  # those of them that are looked at
        self._settled = -1  # how many were not, when that was last worked out
        self._stamp, self._until = (0, 0), 0.0  # of the folder when it was listed, and how long that may be relied on
        self._offsets: dict[str, int] = {}
        self.complete: set[str] = set()  # journals that will not grow any more: not looked at again
        self._warned = False
        self.unreadable: set[str] = set()  # another user's, who does not share them

    def watch(self, stem: str) -> None:
        """Expect a journal that was just made, and holds its header: its removal is noticed even if nobody reads it."""
        self._offsets.setdefault(stem, self._size)
        self._until = 0.0  # it must not be taken for gone where the folder's time does not tell of it

    def wrote(self, stem: str, count: int = 1) -> None:
        """Pass over records that this process has appended, because it knows them."""
        if self._offsets.get(stem):  # what was before it is known
            self._offsets[stem] += count * self._size

    def restart(self, stem: str) -> None:
        """Read a journal from its beginning next time, if it is still there."""
        if stem in self._offsets:
            self._offsets[stem] = 0
            self.complete.discard(stem)
            self._settled = -1

    def shrunk(self) -> list[str]:
        """Return the stems of journals that are shorter than what was read of them, so are not the same any more."""
        found = [(stem, offset, self._folder.status(stem + self._suffix)) for stem, offset in self._offsets.items()]
        return [stem for stem, offset, status in found if status is not None and status.st_size < offset]

    def poll(
        self, but: Collection[str] = (), folder: os.stat_result | None = None
    ) -> tuple[list[tuple[str, np.ndarray[Any, Any]]], list[str]]:
        """Return (stem and its new valid records) of every journal that grew, and the stems of those that are gone.

        Arguments as for ``look``. A journal that cannot be read, or that shrinks, is left out; the others are read.
        Raises OSError where the folder cannot be listed, or this process has no handles or memory left.
        """
        grown, gone = self.look(but, folder)
        return list(self.read(grown)), gone

    def look(self, but: Collection[str] = (), folder: os.stat_result | None = None) -> tuple[dict[str, int], list[str]]:
        """Return how many new records there are at most, by the stem of their journal, and the stems that are gone.

        The journals ``but`` are not looked at. ``folder``: its status, where it was just asked for.
        """
        gone = self._leave_out_gone() if self._list(folder or self._folder.status(".")) else []
        grown = {}
        for stem in self._to_look_at():
            if stem in but:
                continue
            offset = self._offsets.setdefault(stem, 0)
            try:
                found = self._folder.status(stem + self._suffix)
            except OSError as error:
                self._skip(stem, error)
                continue
            if found is not None and found.st_size >= offset + self._size:
                grown[stem] = (found.st_size - offset) // self._size
        return grown, gone

    def read(self, grown: Iterable[str]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Give the new valid records of journals, one by one: all at once they may be a gigabyte."""
        for stem in grown:
            offset = self._offsets[stem]
            try:
                data = self._folder.read(stem + self._suffix, offset)
            except (FileNotFoundError, IntegrityError):  # it is removed, or shrinks, while it is read
                continue
            except OSError as error:
                self._skip(stem, error)
                continue
            records = np.frombuffer(data, self._dtype, len(data) // self._size)
            good = np.flatnonzero(valid(records))
            if len(good):
                # bad records after the last good one may be on their way (a network folder): look again next time
                self._offsets[stem] = offset + (int(good[-1]) + 1) * self._size
                yield stem, records[good] if len(good) < len(records) else records

    def _leave_out_gone(self) -> list[str]:
        """Forget the journals that are no longer there; return their stems."""
        gone = sorted(self._offsets.keys() - set(self._stems))
        for stem in gone:
            del self._offsets[stem]
            self.complete.discard(stem)
            self.unreadable.discard(stem)
        return gone

    def _to_look_at(self) -> list[str]:
        """Return the journals that may grow: of tens of thousands most will not."""
        settled = len(self.complete) + len(self.unreadable)
        if settled != self._settled:
            left_out = self.complete | self.unreadable
            self._growing = [stem for stem in self._stems if stem not in left_out]
            self._settled = settled
        return self._growing

    def _skip(self, stem: str, error: OSError) -> None:
        """Leave out a journal of another user's for good; one that cannot be read otherwise is tried again.

        Raises the error if no journal is to blame for it.
        """
        if error.errno in _OURS:
            raise error
        first = not self.unreadable and not self._warned
        if isinstance(error, PermissionError):
            self.unreadable.add(stem)
            why = (
                "is another user's and cannot be read (%s): going on without it; later ones are only counted. A cache "
                "for several users is opened with shared_group= by the first of them"
            )
        else:
            self._warned = True
            why = "cannot be read (%s): going on without it"
        if first:
            LOG.warning(f"%s%s in %s {why}", stem, self._suffix, self._folder.path, error)

    def _list(self, status: os.stat_result | None) -> bool:
        """List the journals that there are; return whether that was done.

        A folder that has not changed is not listed again, because it may hold thousands.
        """
        now = time.monotonic()
        stamp = (status.st_ino, status.st_mtime_ns) if status is not None else (0, 0)
        if stamp != self._stamp or now > self._until:
            lasting = is_settled(stamp[1])
            self._stems = [name[:16] for name in self._folder.names() if is_journal(name, self._suffix)]
            self._stamp, self._until, self._settled = stamp, now + (_RELY if lasting else 0), -1
            return True
        return False


class JournalWriter:
    """Adds records to a journal of this process's own. The first makes it; a forked child makes another.

    If it has been removed, or merged with others, the next record makes another too.
    """

    def __init__(self, folder: Folder, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._pid, self._stem = 0, ""

    @property
    def stem(self) -> str:
        """Of the journal; empty if there is none yet."""
        return self._stem if self._pid == os.getpid() else ""

    def renew(self) -> None:
        """Let the next record begin another journal."""
        self._stem = ""

    def append(self, record: bytes) -> None:
        """Publish one record. Raises OSError."""
        stem, self._stem = self.stem, ""  # its end may be torn, if this fails
        if stem:
            with contextlib.suppress(FileNotFoundError):
                self._folder.append(stem + self._suffix, record)
                self._stem = stem
                return
        stem = secrets.token_hex(8)
        self._folder.publish(stem + self._suffix, [record], replace=False)
        self._pid, self._stem = os.getpid(), stem


def merge_journals(folder: Folder, suffix: str, size: int, dry_run: bool = False) -> int:
    """Make one journal of the small ones that short runs leave; how many fewer there are, or would be.

    ``size``: bytes of a record.

    For journals of a JournalWriter, who need not stop: what is added until a journal is removed is kept here, and who
    adds to one that has been removed notices. Raises OSError; what was merged is not lost then.
    """
    found = [(status, name) for name in folder.names() if is_journal(name, suffix) and (status := folder.status(name))]
    small = sorted((status.st_mtime_ns, name) for status, name in found if status.st_size < _SMALL)
    if dry_run or len(small) < 2:
        return max(0, len(small) - 1)
    lengths: dict[str, int] = {}

    def parts() -> Iterator[bytes]:
        for _, name in small:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or another user's
                data = folder.read(name)
                records = np.frombuffer(data, f"V{size}", len(data) // size)
                lengths[name] = len(data)
                yield records[valid(records)].tobytes()

    merged, fewer = secrets.token_hex(8) + suffix, -1
    try:
        folder.publish(merged, parts(), replace=False)
        folder.sync(merged)
        for name, length in lengths.items():
            with contextlib.suppress(FileNotFoundError), folder.open(name) as fd:
                if os.fstat(fd).st_size == length and folder.delete(name):
                    fewer += 1
                    late = os.fstat(fd).st_size - length
                    if late:
                        folder.publish(secrets.token_hex(8) + suffix, chunks(fd, length, late), replace=False)
    finally:
        if fewer < 0:  # it stands for nothing
            folder.delete(merged)
    return max(0, fewer)


def is_journal(name: str, suffix: str) -> bool:
    """Whether ``name`` is 16 lower-case hexadecimal digits and ``suffix``."""
    return len(name) == 16 + len(suffix) and name.endswith(suffix) and not name[:16].strip("0123456789abcdef")
