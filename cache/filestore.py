"""What the modes with one file an entry share: names, integrity, quarantine, budget and sweeping.

An entry is ``<mode>/<first two digits>/<32 hex digits><suffix>``, written under a temporary name and renamed, so it
is there as a whole or not at all. It ends with a :mod:`.trailer`. An entry that is not what was put moves to
``<mode>/quarantine``, where ``upkeep.gc`` removes it; it is a miss from then on. A mode only says how an array
becomes a file's bytes and back.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import xxhash

from .base import Array
from .budget import QUARANTINE, Budget, charge, entry_stem
from .errors import IntegrityError
from .files import Folder, chunks, fill
from .folderstore import FolderStore
from .integrity import payload, read_only, storable
from .journal import RECORD
from .key import Key
from .trailer import Trailer, body_checksum


def entry_pattern(suffix: str) -> re.Pattern[str]:
    """Return what the names of entries look like; ``suffix`` is a regular expression."""
    return re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}" + suffix)


class FileStore(FolderStore):
    """Template: a mode gives ``mode``, ``suffix``, ``_encode`` and ``_decode`` (or its own ``_load`` and ``_save``).

    Attributes:
        whole: whether ``_decode`` wants the file's bytes; else it reads from the descriptor.
    """

    suffix: ClassVar[str]
    direct = False
    whole: bool = True

    def _prepare(self) -> None:
        self._budget = None
        if self.options.disk_bytes is not None and not self.options.read_only:
            self._budget = Budget(self._folder, self.options.disk_bytes, self._remove, self.suffix)
        self._checked: dict[bytes, tuple[int, int]] = {}  # entries checked by this instance: inode and size
        self._refused: set[tuple[bytes, int]] = set()  # entries that a read-only store has found damaged

    # -- for modes -----------------------------------------------------------------------------------------------------

    def _encode(self, array: Array) -> Sequence[Any]:
        """Return the file's parts, before the trailer."""
        raise NotImplementedError

    def _decode(self, body: memoryview, fd: int) -> Array:
        """Return the array in a file (``body`` is empty unless ``whole``). Raises IntegrityError."""
        raise NotImplementedError

    # -- reading -------------------------------------------------------------------------------------------------------

    def stem(self, key: Key) -> str:
        """Return the path of an entry within the mode's folder, without suffix."""
        return f"{key.hex[:2]}/{key.hex}"

    def _get(self, key: Key) -> Array | None:
        try:
            array = self._load(key)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            self._set_aside(key, str(error))
            return None
        if self._budget is not None:
            with contextlib.suppress(OSError):  # evicted meanwhile: what was read is good
                self._folder.touch(self.stem(key) + self.suffix)
        return read_only(array)

    def _load(self, key: Key) -> Array:
        with self._folder.open(self.stem(key) + self.suffix) as fd:
            status = os.fstat(fd)
            size = status.st_size - RECORD
            if size < 0:
                raise IntegrityError(f"it has {status.st_size} bytes, fewer than a checksum takes")
            trailer = Trailer.parse(b"".join(map(bytes, chunks(fd, size, RECORD))), key.digest, size)
            body = memoryview(b"")
            if self.whole:
                body = np.empty(size, np.uint8).data
                fill(fd, 0, body)
            if self._must_check(key, status):
                parts = [body] if self.whole else chunks(fd, 0, size)
                if body_checksum(key.digest, parts, self.options.secret) != trailer.total:
                    raise IntegrityError("its checksum does not fit its bytes")
            array = self._decode(body, fd)
            self._checked[key.digest] = status.st_ino, status.st_size
            return array

    def _must_check(self, key: Key, status: os.stat_result) -> bool:
        if self.options.verify == "first":
            return self._checked.get(key.digest) != (status.st_ino, status.st_size)
        return self.options.verify == "always"

    def _set_aside(self, key: Key, why: str) -> None:
        """Put a damaged entry where it is not read again."""
        self._checked.pop(key.digest, None)
        if not self.options.read_only:
            self._quarantine(key)
        else:
            status = self._folder.status(self.stem(key) + self.suffix)
            seen = key.digest, status.st_ino if status else 0
            if seen in self._refused:
                return
            self._refused.add(seen)
        self._refuse(key, why)

    def _quarantine(self, key: Key) -> None:
        name = f"{QUARANTINE}/{secrets.token_hex(8)}{self.suffix}"
        self._folder.rename(self.stem(key) + self.suffix, name)

    def _contains(self, key: Key) -> bool:
        return self._folder.status(self.stem(key) + self.suffix) is not None

    def _keys(self) -> list[Key]:
        return [Key.from_hex(stem[3:]) for stem, _ in self._scan()]

    def _scan(self) -> list[tuple[str, int]]:
        """Return (stem, bytes) of every entry."""
        try:
            found = [(name, status.st_size) for name, status in self._folder.scan() if name.endswith(self.suffix)]
        except FileNotFoundError:
            return []
        return [(stem, size) for name, size in found if (stem := entry_stem(name)) is not None]

    def _extra_stats(self) -> dict[str, Any]:
        entries = self._scan()
        used = 0
        with contextlib.suppress(FileNotFoundError):  # a read-only cache that is not there
            used = sum(charge(status.st_size) for _, status in self._folder.scan())
        return {"entries": len(entries), "bytes": used, "budget": self.options.disk_bytes}

    # -- writing -------------------------------------------------------------------------------------------------------

    def _put(self, key: Key, array: Array) -> None:
        array = storable(array)
        content = xxhash.xxh3_64_digest(f"{array.dtype.str}{array.shape}".encode())
        content = xxhash.xxh3_64(payload(array), seed=int.from_bytes(content, "big")).digest()
        if not self._has(key, content):
            self._save(key, array, content)

    def _has(self, key: Key, content: bytes) -> bool:
        """Whether the entry is there with this content."""
        return self.content(key) == content

    def content(self, key: Key) -> bytes | None:
        """Return 8 bytes that are equal for equal arrays; None if there is no entry that can be read."""
        try:
            with self._folder.open(self.stem(key) + self.suffix) as fd:
                size = os.fstat(fd).st_size - RECORD
                data = b"".join(map(bytes, chunks(fd, size, RECORD))) if size >= 0 else b""
            return Trailer.parse(data, key.digest, size).content
        except (FileNotFoundError, PermissionError, IntegrityError):  # another user's is replaced
            return None

    @property
    def folder(self) -> Folder:
        """The folder of the entries."""
        return self._folder

    def files_of(self, key: Key) -> list[str]:
        """Return the names of an entry's files in the folder; the last makes the entry appear. Raises OSError."""
        return [self.stem(key) + self.suffix]

    def _save(self, key: Key, array: Array, content: bytes) -> None:
        parts = self._encode(array)
        size = sum(memoryview(part).nbytes for part in parts)
        trailer = Trailer(key.digest, content, size, body_checksum(key.digest, parts, self.options.secret))
        with self._room(size + RECORD):
            self._folder.publish(self.stem(key) + self.suffix, [*parts, bytes(trailer)])
        self._checked.pop(key.digest, None)

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Room within the budget for what is written inside this."""
        if self._budget is None:
            yield
            return
        with self._budget.room(size):
            self.evicted = self._budget.evicted
            yield

    def _delete(self, key: Key) -> bool:
        self._checked.pop(key.digest, None)
        return self._remove(self.stem(key))

    def _remove(self, stem: str) -> bool:
        """Remove all files of an entry; return False if there was none."""
        return self._folder.delete(stem + self.suffix)

    def trim(self, dry_run: bool = False) -> int:
        """Remove the least recently used entries until the budget is kept; return how many (or how many would be)."""
        if self.options.disk_bytes is None:
            return 0
        budget = self._budget or Budget(self._folder, self.options.disk_bytes, self._remove, self.suffix)
        return budget.excess() if dry_run or self.options.read_only else budget.trim()
