"""What the content of a source file was when it was last read, so that a warm run need not read it again.

Remembers (path, size, mtime, ctime, inode) -> (content digest, tag). With the inode and the time of the last change of
any kind, a file that took another's place is a new one, whatever its size and mtime say: nobody but the system sets a
ctime. Records are those of :mod:`.journal`, in ``sources/<token>.seen``, one journal per writer:

| bytes | field | |
|---|---|---|
| 16 | path | keyed digest |
| 16 | state | keyed digest of path, size, times in ns and inode |
| 16 | content | the digest, XORed with a keyed digest of path and state |
| 24 | tag | ASCII, padded with zeros |
| 8 | mac | of all before |
| 8 | check | the journal's |

So nothing on disk names a file or tells whether some file was ever read, and nobody without the secret can give a file
another content. A million records load in well under a second and are kept as arrays.

A file changed again within the clock's granularity keeps its state, so a file that was changed "just now" is not
remembered (:func:`.journal.is_settled`).
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from .agreement import agree
from .errors import IntegrityError, StoreConfigError
from .files import Folder
from .journal import JournalReader, JournalWriter, is_settled, is_signed, seal_signed
from .key import default_secret
from .lock import ProcessLock
from .tagging import access_to, tag

LOG = logging.getLogger(__name__)
SUFFIX = ".seen"
TAG_BYTES = 24
RECORD = np.dtype(
    [
        ("path", "<u8", 2),
        ("state", "V16"),
        ("content", "V16"),
        ("tag", f"V{TAG_BYTES}"),
        ("mac", "V8"),
        ("check", "<u8"),
    ]
)
_EMPTY = np.zeros(0, RECORD)
_MOST_RECENT = 100_000  # records kept in a table before they are sorted into the array


class FileState(NamedTuple):
    """What tells a file from any other content at its path: bytes, times in ns, inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the state that ``os.stat`` or ``os.fstat`` tells."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class SourceIndex:
    """See the module. ``directory`` is the cache's folder; None keeps the index in this process only.

    ``secret`` hides the paths (default: :func:`.default_secret`). Raises SecretError if that cannot be had, or if the
    cache's names were made with another.
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
        agree(self._root, secret)
        self._folder = Folder(os.path.join(os.fspath(directory), "sources"), access, read_only, follow=False)
        self._reader = JournalReader(self._folder, SUFFIX, RECORD)
        self._writer = JournalWriter(self._folder, SUFFIX)
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
        """Return 16 bytes that stand for a path; they tell nothing without the secret."""
        return blake2b(os.fsencode(path), digest_size=16, key=self._secret).digest()

    def lookup(self, path: str | os.PathLike[str], state: FileState) -> tuple[bytes, str] | None:
        """Return (content digest, tag) of a file seen before in this state, or None."""
        digest = self.path_digest(path)
        wanted = self._state_digest(digest, state)
        found = self._find(digest, wanted)
        if found is None and self._folder is not None:
            with self._lock:
                try:
                    news = self._refresh()
                except (OSError, IntegrityError) as error:
                    self._failed(error)
                    news = False
            found = self._find(digest, wanted) if news else None
        if found is None:
            return None
        return self._content(found), bytes(found["tag"]).rstrip(b"\0").decode("ascii", "replace")

    def contents(self, path: str | os.PathLike[str]) -> set[bytes]:
        """Return the content digest of every state of this file that is remembered."""
        digest = self.path_digest(path)
        rows = [row for row in (*self._rows(digest), self._recent.get(digest)) if row is not None]
        return {self._content(row) for row in rows if self._is_ours(row)}

    def record(self, path: str | os.PathLike[str], state: FileState, content: bytes, tag: str = "") -> bool:
        """Remember what a file held.

        ``tag`` is the caller's own word on the content, ASCII.

        Returns False, and remembers nothing, if the file was changed too recently to tell, or the tag has more than
        ``TAG_BYTES`` characters; False too if nothing can be written.
        """
        if len(content) != 16 or not tag.isascii():
            raise StoreConfigError(f"content is 16 bytes and a tag is ASCII; got {len(content)} bytes and {tag!r}")
        if len(tag) > TAG_BYTES or not (is_settled(state.mtime_ns) and is_settled(state.ctime_ns)):
            return False
        digest = self.path_digest(path)
        place = digest + self._state_digest(digest, state)
        body = place + self._hide(place, content) + tag.encode("ascii").ljust(TAG_BYTES, b"\0")
        record = seal_signed(body, self._secret)
        with self._lock:
            self._recent[digest] = np.frombuffer(record, RECORD)[0]
            if self._folder is None:
                return True
            if self._read_only:
                return False
            try:
                self._writer.append(record)
            except (OSError, IntegrityError) as error:
                self._failed(error)
                return False
        return True

    def __len__(self) -> int:
        return len(self._records) + len(self._recent)

    def close(self) -> None:
        """Give the folder's handles back."""
        if self._folder is not None:
            self._folder.close()
            self._root.close()

    def _state_digest(self, path: bytes, state: FileState) -> bytes:
        plain = path + struct.pack("<QqqQ", *state)
        return blake2b(plain, digest_size=16, key=self._secret, person=b"dali-pipes state").digest()

    def _hide(self, place: bytes, content: bytes) -> bytes:
        """Turn the content digest of a place (path and state) into what is written, and back."""
        pad = blake2b(place, digest_size=16, key=self._secret, person=b"dali-pipes hide").digest()
        return (int.from_bytes(content, "little") ^ int.from_bytes(pad, "little")).to_bytes(16, "little")

    def _content(self, row: np.void) -> bytes:
        return self._hide(row.tobytes()[:32], bytes(row["content"]))

    def _find(self, digest: bytes, state: bytes) -> np.void | None:
        row = self._recent.get(digest)
        if row is not None and bytes(row["state"]) == state and self._is_ours(row):
            return row
        for row in self._rows(digest):
            if bytes(row["state"]) == state and self._is_ours(row):
                return row
        return None

    def _is_ours(self, row: np.void) -> bool:
        """Whether a holder of the secret wrote a record. Checked when it is used: a million checks take a second."""
        return is_signed(row.tobytes(), self._secret)

    def _rows(self, digest: bytes) -> list[np.void]:
        """Return the records of a path, the newest first."""
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
        """Take in what has been added to the journals; return whether there was anything."""
        if self._folder is None:
            return False
        try:
            grown, _ = self._reader.poll(but=self._writer.stem)  # what this process wrote it knows
        except FileNotFoundError:
            return False
        fresh = [records for _, records in grown]
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

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            LOG.warning(
                "the index of source files cannot be used (%s): files are read again to know their content", error
            )


def _reopen(*arguments: Any) -> SourceIndex:
    directory, secret, read_only, shared_group = arguments
    return SourceIndex(directory, secret=secret, read_only=read_only, shared_group=shared_group)
