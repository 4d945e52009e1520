"""A packed cache behind a URL (``s3://bucket/prefix``), which is only read: the ``base`` of ``tiered``.

What lies there is laid out as a cache's folder (:mod:`.pushing` writes it): the tag, packed segments with their
journals, source records and notes. Segments there never change. The journals are read once, when the store is opened,
and kept near, so that the next opening asks for new ones only. Entries are read by range requests, and each is checked
by its checksum. Whatever is damaged, missing or slow there is a miss: another request or a decode, never other bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from .agreement import disagreement, fingerprint, journal_signed_with
from .base import Array, Options, Store
from .errors import IntegrityError, StoreConfigError
from .files import Folder
from .integrity import checksum, payload, read_only
from .journal import is_journal
from .key import Key
from .lock import ProcessLock
from .nearby import Nearby
from .npyformat import parse
from .objects import IN_FLIGHT, PIECE, Objects, shown
from .records import JOURNALS, journals_in, records_in
from .segment import DATA, Segment
from .segment_journal import RECORD
from .slots import SlotIndex
from .tagging import TAG, TAG_NAME, signature_of

TRIES = 6  # of a request, and no more when twice PATIENCE is over: what it is for can be decoded too
PATIENCE = 10.0  # seconds of silence after which a request is made again, once or twice
REST = 60.0  # seconds for which a server that failed three entries in a row is not asked
_FAILURES = 3
_JUDGED = 64  # journals, and records of each, that tell with which secret a cache without a fingerprint was made


class BucketStore(Store):
    """See the module.

    Args:
        url: of the cache.
        options: of the store on top of it.
        near: the folder of a local cache, where the journals, source records and notes are kept; None keeps nothing.
        pause: as of :class:`.objects.Objects`.

    Raises:
        StoreConfigError: there is no cache behind the URL, or its protocol cannot be used.
    """

    mode = "bucket"
    persistent = True
    direct = False
    distant = True

    def __init__(
        self,
        url: str,
        options: Options,
        near: str | None = None,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__(replace(options, read_only=True, disk_bytes=None))
        self.directory = shown(url)
        self.objects = Objects(url, pause, TRIES, PATIENCE)
        self._near = Nearby(near, url, options) if near is not None else None
        self.slots = SlotIndex(Folder(os.devnull, read_only=True))
        self.sizes: dict[str, int] = {}
        self.signature: str | None = None
        self._secret: bytes | None = None
        self._lock = ProcessLock()
        self._headers: dict[str, ProcessLock] = {}
        self._unheard: dict[str, float] = {}  # when a header was asked for in vain
        self._refused: set[tuple[str, int]] = set()
        self._in_a_row, self._rests_until = 0, 0.0
        self.requests = 0
        self._ready = False
        self._learn()

    # -- the index -----------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Read what is there, and note it; a server that does not answer is asked again when an epoch begins."""
        try:
            self.sizes = self.objects.sizes()
            if not self.sizes.get(TAG_NAME):
                raise FileNotFoundError
            text = self.objects.part(TAG_NAME, 0, self.sizes[TAG_NAME])
        except FileNotFoundError:
            raise StoreConfigError(
                f"{self.directory} holds no cache (it has no {TAG_NAME}): fill it with 'dali-pipes cache push DIR URL'"
            ) from None
        except NotImplementedError:
            raise StoreConfigError(
                f"{self.directory}: its protocol lists no files, which a cache behind a URL needs; use s3:// or gs://"
            ) from None
        except OSError as error:
            self._failed("open", error)
            return
        if not text.startswith(TAG):
            raise StoreConfigError(f"{self.directory} holds a {TAG_NAME} of another program: give the URL of a cache")
        self.signature = signature_of(text)
        self._ready = True
        if self._secret is not None:
            self.agree(self._secret)
        self._read_journals()

    def _read_journals(self) -> None:
        tokens = [
            name[7:23]
            for name in self.sizes
            if name.startswith("pinned/") and is_journal(name[7:], ".idx") and f"{name[:23]}.npy" in self.sizes
        ]
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            found = list(threads.map(self._journal, tokens))
        with self._lock:
            self.slots.learn(zip(tokens, found))

    def _journal(self, token: str) -> np.ndarray[Any, Any]:
        """Return the records of a segment, kept near or read; none if they cannot be had."""
        name = f"pinned/{token}.idx"
        data = None if self._near is None else self._near.read(f"{token}.idx", self.sizes[name])
        if data is None or len(records_in(data, RECORD)) * RECORD.itemsize < len(data):
            try:
                data = self._whole(name)
            except OSError as error:
                self._failed("read the index", error)
                return np.zeros(0, RECORD)
            if self._near is not None:
                self._near.keep(f"{token}.idx", data)
        return records_in(data, RECORD)

    def _whole(self, name: str) -> bytes:
        return self._range(name, 0, self.sizes[name])

    def _range(self, name: str, begin: int, end: int) -> bytes:
        self.requests += -(-(end - begin) // PIECE)
        return self.objects.span(name, begin, end)

    def agree(self, secret: bytes) -> None:
        """Make sure that names there are made with ``secret``, and take the source records and notes over.

        Raises SecretError if they were made with another.
        """
        self._secret = secret
        foreign = self.signature is None and self.signed_with(secret) is False
        if foreign or self.signature not in (None, fingerprint(secret)):
            raise disagreement(self.directory or "", self.signature, fingerprint(secret))
        if self._near is not None:
            self._near.take_records(self.sizes, self._whole)

    def signed_with(self, secret: bytes) -> bool | None:
        """Return whether any record there that was looked at was signed with ``secret``; None without records."""
        found: bool | None = None
        for inner, suffix, record in JOURNALS:
            for name in journals_in(self.sizes, inner, suffix)[:_JUDGED]:
                most = min(self.sizes[name], _JUDGED * record.itemsize)
                try:
                    said = journal_signed_with(self._range(name, 0, most), inner, secret)
                except OSError as error:
                    self._failed("read the index", error)
                    continue
                if said:
                    return True
                found = found if said is None else False
        return found

    def refresh(self) -> None:
        """Ask for the index if that could not be had so far."""
        super().refresh()
        if not self._ready:
            self._learn()

    # -- entries -------------------------------------------------------------------------------------------------------

    def _get(self, key: Key) -> Array | None:
        if time.monotonic() < self._rests_until:
            return None
        failure: OSError | None = None
        for segment, slot in self._places(key.digest):
            try:
                found = self._fetch(segment, slot, key.digest) or self._fetch(segment, slot, key.digest)
            except FileNotFoundError as error:
                failure = error
                with self._lock:
                    self.slots.forget(segment.token)
                continue
            except OSError as error:
                failure = error
                self._in_a_row += 1
                if self._in_a_row >= _FAILURES:
                    self._rests_until, self._in_a_row = time.monotonic() + REST, 0
                break
            self._in_a_row = 0
            if found is not None:
                return found[0]
            self._refused.add((segment.token, slot))  # not asked for again
            self._refuse(key, "what the server gives does not fit its checksum")
        if failure is not None:
            raise failure
        return None

    def _places(self, digest: bytes) -> list[tuple[Segment, int]]:
        with self._lock:
            places = self.slots.slots_of(digest)
        return [(segment, slot) for segment, slot in places if (segment.token, slot) not in self._refused]

    def _fetch(self, segment: Segment, slot: int, digest: bytes) -> tuple[Array] | None:
        """Read an entry; None if it is not what was put. Raises OSError."""
        total = segment.sums.get(slot)
        try:
            self._describe(segment)
        except IntegrityError:
            return None
        dtype = segment.dtype
        if total is None or dtype is None or slot >= segment.slots:
            return None
        begin, end = (DATA + at * segment.entry_bytes for at in (slot, slot + 1))
        if end > self.sizes.get(_object(segment), 0):
            return None  # its header says more than there is
        array: Array = np.ndarray(segment.shape, dtype, self._range(_object(segment), begin, end))
        if checksum(digest, dtype, segment.shape, [payload(array)], self.options.secret) != total:
            return None
        return (read_only(array),)

    def _describe(self, segment: Segment) -> None:
        """Read a segment's header, once. Raises OSError, IntegrityError."""
        begun = time.monotonic()
        with self._headers.setdefault(segment.token, ProcessLock()):
            if segment.dtype is not None:
                return
            if self._unheard.get(segment.token, -1.0) >= begun:  # while this waited
                raise ConnectionError("the segment's header was asked for in vain")
            try:
                end = min(DATA, self.sizes.get(_object(segment), 0))
                dtype, shape, size = parse(self._range(_object(segment), 0, end))
            except OSError:
                self._unheard[segment.token] = time.monotonic()
                raise
            if size != DATA or not shape:
                raise IntegrityError("its header is damaged: not that of a segment")
            segment.describe(dtype, shape[1:], shape[0])

    def _contains(self, key: Key) -> bool:
        return bool(self._places(key.digest))

    def _keys(self) -> list[Key]:
        with self._lock:
            return [Key(digest) for digest in self.slots.places]

    def _extra_stats(self) -> dict[str, Any]:
        held = sum(size for name, size in self.sizes.items() if name.startswith("pinned/"))
        return {"entries": len(self.slots.places), "bytes": held, "requests": self.requests}

    def close(self) -> None:
        """End the use of this instance, and all waiting for the server."""
        super().close()
        self.objects.close()
        if self._near is not None:
            self._near.close()


def _object(segment: Segment) -> str:
    return f"pinned/{segment.token}.npy"
