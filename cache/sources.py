"""What the content of a source file was when it was last read, so that a warm run need not read it again.

Remembers (path, size, mtime) -> (content digest, tag). Paths are kept as keyed digests only: nothing on disk names a
file. Records are those of :mod:`.journal`, in ``sources/<token>.src``, one journal per writer. A million of them
load in well under a second and are kept as arrays, 64 bytes each.

A file changed again within the clock's granularity keeps its size and mtime, so a file that was modified "just now" is
not remembered (:func:`.journal.is_settled`).
"""

from __future__ import annotations

import logging
import os
import secrets
from hashlib import blake2b
from typing import Any

import numpy as np

from .errors import StoreConfigError
from .files import Folder, access_to, tag
from .journal import JournalReader, JournalWriter, is_settled, seal
from .key import default_secret
from .lock import ProcessLock

LOG = logging.getLogger(__name__)
RECORD = np.dtype(
    [("path", "<u8", 2), ("size", "<u8"), ("mtime", "<i8"), ("content", "V16"), ("tag", "V8"), ("check", "<u8")]
)
_EMPTY = np.zeros(0, RECORD)
_MOST_RECENT = 100_000  # records kept in a table before they are sorted into the array


class SourceIndex:
    """See the module. ``directory`` is the cache's folder; None keeps the index in this process only.

    ``secret`` hides the paths (default: :func:`.default_secret`, which may raise SecretError).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        secret: bytes | None = None,
        read_only: bool = False,
        shared_group: str | int | None = None,
    ) -> None:
        self._arguments = (directory, secret, read_only, shared_group)
        if secret is None:
            secret = default_secret() if directory is not None else secrets.token_bytes(32)
        self._secret = blake2b(secret, digest_size=32, person=b"dali-pipes path").digest()
        self._read_only = read_only
        self._lock = ProcessLock()
        self._recent: dict[bytes, np.void] = {}  # path digest -> record
        self._records, self._order, self._sorted = _EMPTY, np.zeros(0, np.intp), np.zeros(0, "<u8")
        self._folder: Folder | None = None
        self.errors = 0
        if directory is None:
            return
        access = access_to(os.fspath(directory), shared_group)
        self._root = Folder(directory, access, read_only)
        self._folder = Folder(os.path.join(os.fspath(directory), "sources"), access, read_only)
        self._reader = JournalReader(self._folder, ".src", RECORD)
        self._writer = JournalWriter(self._folder, ".src")
        try:
            if not read_only:
                tag(self._root)
                self._folder.sweep()
            self._refresh()
        except OSError as error:
            self._failed(error)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._folder is None:
            raise StoreConfigError(
                "a SourceIndex without a directory belongs to one process: give it the cache's directory"
            )
        return _reopen, self._arguments

    def path_digest(self, path: str | os.PathLike[str]) -> bytes:
        """16 bytes that stand for a path; tells nothing without the secret."""
        return blake2b(os.fsencode(path), digest_size=16, key=self._secret).digest()

    def lookup(self, path: str | os.PathLike[str], size: int, mtime_ns: int) -> tuple[bytes, str] | None:
        """(content digest, tag) of a file seen before with this size and mtime, or None."""
        digest = self.path_digest(path)
        found = self._find(digest, size, mtime_ns)
        if found is None and self._folder is not None:
            with self._lock:
                try:
                    news = self._refresh()
                except OSError as error:
                    self._failed(error)
                    news = False
            found = self._find(digest, size, mtime_ns) if news else None
        if found is None:
            return None
        return bytes(found["content"]), bytes(found["tag"]).rstrip(b"\0").decode("ascii", "replace")

    def seen(self, path: str | os.PathLike[str]) -> list[tuple[int, int]]:
        """(size, mtime_ns) of every state of this file that is remembered: to explain a miss."""
        digest = self.path_digest(path)
        rows = [row for row in (*self._rows(digest), self._recent.get(digest)) if row is not None]
        return sorted({(int(row["size"]), int(row["mtime"])) for row in rows})

    def record(self, path: str | os.PathLike[str], size: int, mtime_ns: int, content: bytes, tag: str = "") -> bool:
        """Remembers what a file held; False if it was modified too recently to tell (or if nothing can be written)."""
        if len(content) != 16 or len(tag) > 8 or not tag.isascii():
            raise StoreConfigError(
                f"content is 16 bytes and a tag at most 8 ASCII characters; got {len(content)} and {len(tag)}"
            )
        if not is_settled(mtime_ns):
            return False
        digest = self.path_digest(path)
        body = (
            digest
            + size.to_bytes(8, "little")
            + mtime_ns.to_bytes(8, "little", signed=True)
            + content
            + tag.encode("ascii").ljust(8, b"\0")
        )
        record = seal(body)
        with self._lock:
            self._recent[digest] = np.frombuffer(record, RECORD)[0]
            if self._folder is None:
                return True
            if self._read_only:
                return False
            try:
                self._writer.append(record)
            except OSError as error:
                self._failed(error)
                return False
        return True

    def __len__(self) -> int:
        return len(self._records) + len(self._recent)

    def close(self) -> None:
        """Gives the folder's handles back."""
        if self._folder is not None:
            self._folder.close()
            self._root.close()

    def _find(self, digest: bytes, size: int, mtime_ns: int) -> np.void | None:
        row = self._recent.get(digest)
        if row is not None and row["size"] == size and row["mtime"] == mtime_ns:
            return row
        for row in self._rows(digest):
            if row["size"] == size and row["mtime"] == mtime_ns:
                return row
        return None

    def _rows(self, digest: bytes) -> list[np.void]:
        """The records of a path, the newest first."""
        low, high = np.frombuffer(digest, "<u8")
        at = int(np.searchsorted(self._sorted, low))
        rows = []
        while at < len(self._sorted) and self._sorted[at] == low:
            row = self._records[self._order[at]]
            if row["path"][1] == high:
                rows.append(row)
            at += 1
        return rows[::-1]

    def _refresh(self) -> bool:
        """Takes in what has been added to the journals; whether there was anything."""
        if self._folder is None:
            return False
        try:
            grown, _ = self._reader.poll()
        except FileNotFoundError:
            return False
        fresh = [records for stem, records in grown if stem != self._writer.stem]
        if not fresh:
            return False
        if len(self._records) and sum(map(len, fresh)) + len(self._recent) < _MOST_RECENT:
            for records in fresh:  # a few at a time: not worth sorting everything again
                self._recent.update(zip((row.tobytes() for row in records["path"]), records))
            return True
        records = np.concatenate([self._records, *fresh])
        first = records["path"][:, 0]
        order = np.argsort(first, kind="stable")
        self._records, self._order, self._sorted = records, order, first[order]
        return True

    def _failed(self, error: OSError) -> None:
        self.errors += 1
        if self.errors == 1:
            LOG.warning(
                "the index of source files cannot be used (%s): files are read again to know their content", error
            )


def _reopen(*arguments: Any) -> SourceIndex:
    directory, secret, read_only, shared_group = arguments
    return SourceIndex(directory, secret=secret, read_only=read_only, shared_group=shared_group)
