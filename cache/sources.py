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
from collections.abc import Sequence
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


class _Sorted(NamedTuple):
    """All records but the recent ones: ``ordered`` are the first words of their paths, sorted; ``order`` their rows."""

    records: np.ndarray[Any, Any]
    order: np.ndarray[Any, Any]
    ordered: np.ndarray[Any, Any]


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
        self._all = _Sorted(np.zeros(0, RECORD), np.zeros(0, np.intp), np.zeros(0, "<u8"))
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
            found = self._find(digest, wanted) if self._news() else None
        return None if found is None else self._told(found.tobytes())

    def lookup_many(self, paths: Sequence[str], states: Sequence[FileState | None]) -> list[tuple[bytes, str] | None]:
        """Return for each file what ``lookup`` returns; all are searched for together.

        A state of None stands for any: what is remembered of the path, where that is one content.
        """
        digests = [self.path_digest(path) for path in paths]
        wanted = [None if state is None else self._state_digest(at, state) for at, state in zip(digests, states)]
        found = self._find_many(digests, wanted)
        lacking = [at for at, each in enumerate(found) if each is None]
        if lacking and self._folder is not None and self._news():
            again = self._find_many([digests[at] for at in lacking], [wanted[at] for at in lacking])
            for at, each in zip(lacking, again):
                found[at] = each
        return found

    def contents(self, path: str | os.PathLike[str]) -> set[bytes]:
        """Return the content digest of every state of this file that is remembered."""
        return {content for content, _ in self._known(self.path_digest(path))}

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
            if len(self._recent) >= _MOST_RECENT:
                self._sort([np.array(list(self._recent.values()), RECORD)])
                self._recent = {}
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
        return len(self._all.records) + len(self._recent)

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

    def _told(self, record: bytes) -> tuple[bytes, str]:
        """Return content digest and tag of a record."""
        return self._hide(record[:32], record[32:48]), record[48 : 48 + TAG_BYTES].rstrip(b"\0").decode(
            "ascii", "replace"
        )

    def _known(self, digest: bytes) -> set[tuple[bytes, str]]:
        """Return content digest and tag of every state of a path."""
        rows = [row for row in (*self._rows(digest), self._recent.get(digest)) if row is not None]
        return {self._told(row.tobytes()) for row in rows if self._is_ours(row)}

    def _find_many(self, digests: list[bytes], states: list[bytes | None]) -> list[tuple[bytes, str] | None]:
        """Return content digest and tag of paths in certain states, or in any where that is None."""
        low = np.frombuffer(b"".join(digests), "<u8")[::2]
        records, order, ordered = self._all
        first = np.searchsorted(ordered, low)
        several = (np.searchsorted(ordered, low, "right") - first).tolist()
        size = RECORD.itemsize
        rows = records[order[np.minimum(first, len(order) - 1)]].tobytes() if len(order) else b""
        found: list[tuple[bytes, str] | None] = []
        for at, (digest, state) in enumerate(zip(digests, states)):
            record = rows[at * size : (at + 1) * size]
            if several[at] == 1 and digest not in self._recent and record[:16] == digest:  # as most often
                good = (state is None or record[16:32] == state) and is_signed(record, self._secret)
                found.append(self._told(record) if good else None)
            elif state is None:
                known = self._known(digest)
                found.append(known.pop() if len(known) == 1 else None)
            else:
                row = self._find(digest, state) if several[at] or digest in self._recent else None
                found.append(None if row is None else self._told(row.tobytes()))
        return found

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
        records, order, ordered = self._all
        at = int(np.searchsorted(ordered, low))
        rows = []
        while at < len(ordered) and ordered[at] == low:
            row = records[order[at]]
            if row["path"][1] == high:
                rows.append(row)
            at += 1
        return rows[::-1]

    def _news(self) -> bool:
        """Do as ``_refresh`` does; what cannot be read is no news."""
        with self._lock:
            try:
                return self._refresh()
            except (OSError, IntegrityError) as error:
                self._failed(error)
                return False

    def _refresh(self) -> bool:
        """Take in what has been added to the journals; return whether there was anything."""
        if self._folder is None:
            return False
        try:
            grown, _ = self._reader.poll(but=(self._writer.stem,))  # what this process wrote it knows
        except FileNotFoundError:
            return False
        fresh = [records for _, records in grown]
        if not fresh:
            return False
        if len(self._all.records) and sum(map(len, fresh)) + len(self._recent) < _MOST_RECENT:
            for records in fresh:  # a few at a time: not worth sorting everything again
                self._recent.update(zip((row.tobytes() for row in records["path"]), records))
            return True
        self._sort(fresh)
        return True

    def _sort(self, fresh: Sequence[np.ndarray[Any, Any]]) -> None:
        """Take records into the sorted arrays; readers keep the old ones until the new ones are complete."""
        records = np.concatenate([self._all.records, *fresh])
        first = records["path"][:, 0]
        order = np.argsort(first, kind="stable")
        self._all = _Sorted(records, order, first[order])

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            LOG.warning(
                "the index of source files cannot be used (%s): files are read again to know their content", error
            )


def _reopen(*arguments: Any) -> SourceIndex:
    directory, secret, read_only, shared_group = arguments
    return SourceIndex(directory, secret=secret, read_only=read_only, shared_group=shared_group)
