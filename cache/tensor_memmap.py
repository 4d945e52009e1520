"""The ``tensor-memmap`` mode: an entry is a ``.dat`` of bare bytes and a ``.json`` that describes it, memory-mapped.

``<32 hex>.json`` holds ``shape`` and ``dtype``, and also ``data`` (the name of its ``.dat``), ``key`` and
``checksum``. The data file has a name of its own, with its owner in it, and is there first: so the rename of the
``.json`` publishes both, and a new version never meets old bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from .base import Array
from .budget import QUARANTINE
from .errors import IntegrityError
from .files import chunks, fill
from .filestore import FileStore, entry_pattern
from .integrity import checksum, payload
from .key import Key
from .npyformat import nbytes, plain
from .owner import Owner, me

_DATA = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16}-[0-9]+-[0-9]+)\.[0-9a-f]{16}\.dat")


class TensorMemmapStore(FileStore):
    """See the module."""

    mode = "tensor-memmap"
    suffix = ".json"
    pattern = entry_pattern(r"\.(json|[0-9a-f]{16}-[0-9]+-[0-9]+\.[0-9a-f]{16}\.dat)")
    direct = True

    def _describe(self, key: Key) -> tuple[str, np.dtype[Any], tuple[int, ...], bytes, bytes, tuple[int, int]]:
        """Return the name of the data file, dtype, shape, checksum, content and identity.

        Raises IntegrityError, FileNotFoundError.
        """
        with self._folder.open(self.stem(key) + self.suffix) as fd:
            status = os.fstat(fd)
            text = b"".join(map(bytes, chunks(fd, 0, min(status.st_size, 4096))))
        try:
            note = json.loads(text)
            dtype, shape = plain(note["dtype"], note["shape"])
            total, content = bytes.fromhex(note["checksum"]), bytes.fromhex(note["content"])
            found = _DATA.fullmatch(note["data"])
            owner = note["key"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"its .json is damaged: {error}") from None
        if owner != key.hex or found is None or found[1] != key.hex:
            raise IntegrityError("it belongs to another key")
        return f"{key.hex[:2]}/{found[0]}", dtype, shape, total, content, (status.st_ino, status.st_size)

    def _load(self, key: Key) -> Array:
        data, dtype, shape, total, _, identity = self._describe(key)
        size, verify = nbytes(dtype, shape), self.options.verify
        with self._folder.open(data) as fd:
            if os.fstat(fd).st_size != size:
                raise IntegrityError(f"its data has {os.fstat(fd).st_size} bytes and should have {size}")
            copy = memoryview(b"")  # under "always" this is checked and served: a map may change after the check
            parts: Iterable[Any] = ()
            if verify == "always":
                copy = np.empty(size, np.uint8).data
                fill(fd, 0, copy)
                parts = [copy]
            elif verify == "first" and self._checked.get(key.digest) != identity:
                parts = chunks(fd, 0, size)
            if parts and checksum(key.digest, dtype, shape, parts, self.options.secret) != total:
                raise IntegrityError("its checksum does not fit its bytes")
        self._checked[key.digest] = identity
        buffer = copy if verify == "always" or not size else self._folder.map(data)[0]
        array: Array = np.ndarray(shape, dtype, buffer=buffer)
        return array

    def content(self, key: Key) -> bytes | None:
        """Return 8 bytes that are equal for equal arrays; None if there is no entry that can be read."""
        try:
            data, _, _, _, there, _ = self._describe(key)
        except (FileNotFoundError, PermissionError, IntegrityError):  # another user's is replaced
            return None
        return there if self._folder.status(data) is not None else None

    def files_of(self, key: Key) -> list[str]:
        """Return the names of an entry's files in the folder; the last makes the entry appear. Raises OSError."""
        return [self._describe(key)[0], *super().files_of(key)]

    def _save(self, key: Key, array: Array, content: bytes) -> None:
        old = ""  # what we replace; never the data of one who is about to publish it
        with contextlib.suppress(FileNotFoundError, PermissionError, IntegrityError):
            old = self._describe(key)[0]
        base = f"{key.hex}.{me()}.{secrets.token_hex(8)}.dat"
        total = checksum(key.digest, array.dtype, array.shape, [payload(array)], self.options.secret)
        note = {"shape": array.shape, "dtype": array.dtype.str, "data": base, "key": key.hex}
        note |= {"checksum": total.hex(), "content": content.hex()}
        data = f"{key.hex[:2]}/{base}"
        with self._room(array.nbytes + 4096):
            self._folder.publish(data, [payload(array)])
            try:
                self._folder.publish(self.stem(key) + self.suffix, [json.dumps(note).encode()])
            except OSError:
                self._folder.delete(data)
                raise
        self._checked.pop(key.digest, None)
        if old:
            self._folder.delete(old)

    def _data_files(self, key: Key) -> list[str]:
        """Return the data files of an entry, its own and those of earlier versions."""
        shard = key.hex[:2]
        return [
            f"{shard}/{base}"
            for base in self._folder.names(shard)
            if base.startswith(key.hex) and _DATA.fullmatch(base)
        ]

    def _remove(self, stem: str) -> bool:
        there = self._folder.delete(stem + self.suffix)
        for name in self._data_files(Key.from_hex(stem[3:])):
            self._folder.delete(name)
        return there

    def _quarantine(self, key: Key) -> None:
        mark = secrets.token_hex(8)
        self._folder.rename(self.stem(key) + self.suffix, f"{QUARANTINE}/{mark}.json")
        for number, name in enumerate(self._data_files(key)):
            self._folder.rename(name, f"{QUARANTINE}/{mark}-{number}.dat")

    def orphans(self) -> list[str]:
        """Temporary files, and data files that no ``.json`` names, of dead writers."""
        found = super().orphans()
        for shard in self._folder.shards():
            if shard == QUARANTINE:
                continue
            names = set(self._folder.names(shard))
            matches = [match for match in map(_DATA.fullmatch, names) if match]
            versions = Counter(match[1] for match in matches)
            for match in matches:
                if versions[match[1]] == 1 and f"{match[1]}.json" in names:
                    continue  # as nearly all are: no need to read their .json
                owner = Owner.parse(match[2])
                name = f"{shard}/{match[0]}"
                left = owner is None or self._folder.is_left(name, owner)
                if left and not self._names(match[1], match[0]):
                    found.append(name)
        return found

    def _names(self, digits: str, base: str) -> bool:
        try:
            return self._describe(Key.from_hex(digits))[0].endswith(base)
        except FileNotFoundError:
            return False
        except IntegrityError:
            return True  # damaged: a read will set both aside
