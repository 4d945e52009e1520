"""What entries were made of, so that ``explain`` can say part by part why a sample misses.

A key is a digest: it cannot be taken apart. So whoever puts an entry may note its parts here: one 64-byte record
(``parts/<token>.prt``, see :mod:`.journal`) with the key and keyed digests of the parts, 8 bytes of the source
and 3 of each of up to ten others. Nothing can be read out of them but whether a part is the same as now.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from .errors import EntryError
from .files import Folder, access_to, tag
from .journal import JournalReader, JournalWriter, seal
from .key import Key, default_secret
from .lock import ProcessLock

LOG = logging.getLogger(__name__)
RECORD = np.dtype([("key", "V16"), ("source", "V8"), ("names", "V2"), ("parts", "V3", 10), ("check", "<u8")])
MOST = 10
Part = str | int | bytes


class PartsLedger:
    """See the module. ``source`` names the part that identifies the source file's content."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        source: str = "source",
        secret: bytes | None = None,
        read_only: bool = False,
        shared_group: str | int | None = None,
    ) -> None:
        access = access_to(os.fspath(directory), shared_group)
        self._root = Folder(directory, access, read_only)
        self._folder = Folder(os.path.join(os.fspath(directory), "parts"), access, read_only)
        self._source, self._read_only = source, read_only
        secret = default_secret() if secret is None else secret
        self._secret = blake2b(secret, digest_size=32, person=b"dali-pipes part").digest()
        self._writer, self._warned = JournalWriter(self._folder, ".prt"), False
        if not read_only:
            with contextlib.suppress(OSError):  # a folder that cannot be made or read holds nothing to sweep
                self._folder.sweep()
        self._lock = ProcessLock()

    def note(self, key: Key, parts: Mapping[str, Part]) -> None:
        """Remembers what ``key`` was made of. Never fails: what cannot be written is not remembered."""
        if self._read_only:
            return
        source, names, others = self._digests(parts)
        record = seal(key.digest + source + names + b"".join(others).ljust(30, b"\0"))
        with self._lock:
            self._append(record)

    def _append(self, record: bytes) -> None:
        try:
            if not self._writer.stem:
                tag(self._root)
            self._writer.append(record)
        except OSError as error:
            if not self._warned:
                self._warned = True
                LOG.warning("what entries are made of cannot be noted (%s): 'explain' will know less", error)

    def explain(self, parts: Mapping[str, Part]) -> dict[str, Any]:
        """How ``parts`` compare with the nearest entry that was made of the same source.

        ``noted``: entries of this source; ``parts``: by name ``"same"``, ``"differs"`` or ``"unknown"``; ``nearest``:
        its key.
        """
        source, names, others = self._digests(parts)
        ordered = sorted(parts.keys() - {self._source})
        found = [records[_rows(records["source"], source)] for records in self._records()]
        mine = np.concatenate(found) if found else np.zeros(0, RECORD)
        same_names = mine[_rows(mine["names"], names)]
        if not len(same_names):
            state = "unknown" if not len(mine) else "same"
            return {
                "noted": len(mine),
                "nearest": None,
                "parts": {self._source: state} | dict.fromkeys(ordered, "unknown"),
            }
        equal = np.stack([_rows(same_names["parts"][:, at], other) for at, other in enumerate(others)], axis=1)
        best = len(equal) - 1 - int(np.argmax(equal.sum(axis=1)[::-1]))  # the latest of the nearest
        states = {name: "same" if same else "differs" for name, same in zip(ordered, equal[best].tolist())}
        nearest = bytes(same_names[best]["key"]).hex()
        return {"noted": len(mine), "nearest": nearest, "parts": {self._source: "same", **states}}

    def keys_of(self, source: Part) -> list[Key]:
        """The keys of all entries that were noted as made of this source."""
        wanted = self._source_digest(source)
        found = (records["key"][_rows(records["source"], wanted)] for records in self._records())
        return sorted({Key(bytes(key)) for keys in found for key in keys}, key=lambda key: key.digest)

    def close(self) -> None:
        """Gives the folder's handles back."""
        self._folder.close()
        self._root.close()

    def _records(self) -> list[np.ndarray[Any, Any]]:
        try:
            return [records for _, records in JournalReader(self._folder, ".prt", RECORD).poll()[0]]
        except OSError:
            return []

    def _digests(self, parts: Mapping[str, Part]) -> tuple[bytes, bytes, list[bytes]]:
        if self._source not in parts or not 2 <= len(parts) <= MOST + 1:
            raise EntryError(
                f"an entry has a part {self._source!r} and 1 to {MOST} others; got {', '.join(sorted(parts))}"
            )
        ordered = sorted(parts.keys() - {self._source})
        names = Key.of(self._secret, names="\0".join(ordered)).digest[:2]
        others = [Key.of(self._secret, **{name: parts[name]}).digest[:3] for name in ordered]
        return self._source_digest(parts[self._source]), names, others

    def _source_digest(self, source: Part) -> bytes:
        return Key.of(self._secret, source=source).digest[:8]


def _rows(column: np.ndarray[Any, Any], wanted: bytes) -> np.ndarray[Any, Any]:
    """bool[n]: which rows of a column of raw bytes are ``wanted``."""
    width = len(wanted)
    data = np.ascontiguousarray(column).view(np.uint8).reshape(len(column), width)
    same: np.ndarray[Any, Any] = (data == np.frombuffer(wanted, np.uint8)).all(axis=1)
    return same
