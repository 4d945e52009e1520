"""What entries were made of, so that ``explain`` can say part by part why a sample misses.

A key is a digest: it cannot be taken apart. So whoever puts an entry may note its parts here: one 120-byte record
(``parts/<token>.made``, see :mod:`.journal`) with the key and keyed digests of the parts, 8 bytes of the source
and 3 of each of the others, and a ``mac``. From the 24th on the others share one digest. Nothing can be read out of a
record but whether a part is the same as now, and nobody without the secret can make one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from .agreement import agree
from .errors import EntryError, IntegrityError
from .files import Folder
from .journal import JournalReader, JournalWriter, is_signed, seal_signed
from .key import Key, default_secret
from .lock import ProcessLock
from .notes import RECORD, SLOTS, SUFFIX
from .pruning import is_due, prune
from .tagging import access_to, tag

LOG = logging.getLogger(__name__)
_KNOWN = 4096  # digests of parts that are remembered
_PRUNE_EACH = 1 << 18  # bytes written between two looks at whether pruning is due
_NO_MODES = {"sources", "parts", "claims"}
Part = str | int | bytes


class PartsLedger:
    """See the module.

    ``source`` names the part that identifies the source file's content. ``alive`` tells whether there is an entry of a
    key: with it, notes of entries that are gone are dropped now and then (:mod:`.pruning`), if the cache is of one mode
    only. Raises SecretError if the cache's names were made with another secret.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        source: str = "source",
        secret: bytes | None = None,
        read_only: bool = False,
        shared_group: str | int | None = None,
        alive: Callable[[Key], bool] | None = None,
    ) -> None:
        self._alive, self._written = alive, _PRUNE_EACH
        self._known: dict[tuple[str, Part], bytes] = {}
        access = access_to(os.fspath(directory), shared_group)
        self._root = Folder(directory, access, read_only)
        self._folder = Folder(os.path.join(os.fspath(directory), "parts"), access, read_only, follow=False)
        self._source, self._read_only = source, read_only
        secret = default_secret() if secret is None else secret
        agree(self._root, secret)
        self._secret = blake2b(secret, digest_size=32, person=b"dali-pipes part").digest()
        self._writer, self._warned = JournalWriter(self._folder, SUFFIX), False
        if not read_only:
            with contextlib.suppress(OSError):  # a folder that cannot be made or read holds nothing to sweep
                self._folder.sweep()
        self._lock = ProcessLock()

    def note(self, key: Key, parts: Mapping[str, Part]) -> None:
        """Remember what ``key`` was made of. Never fails: what cannot be written is not remembered."""
        self.note_all([(key, parts)])

    def note_all(self, entries: Sequence[tuple[Key, Mapping[str, Part]]]) -> None:
        """Remember what many keys were made of, in one write; parts that they share are digested once."""
        if self._read_only or not entries:
            return
        records = []
        for key, parts in entries:
            source, names, others = self._digests(parts)
            body = key.digest + source + names + b"".join(others).ljust(3 * SLOTS, b"\0")
            records.append(seal_signed(body, self._secret))
        with self._lock:
            self._append(b"".join(records))

    def _append(self, record: bytes) -> None:
        try:
            if not self._writer.stem:
                tag(self._root)
            self._writer.append(record)
            self._written += len(record)
            if self._alive is not None and self._written > _PRUNE_EACH:
                self._written = 0
                self._prune(self._alive)
        except (OSError, IntegrityError) as error:
            if not self._warned:
                self._warned = True
                LOG.warning("what entries are made of cannot be noted (%s): 'explain' will know less", error)

    def _prune(self, alive: Callable[[Key], bool]) -> None:
        self._writer.renew()  # only journals that nobody adds to are pruned
        if is_due(self._folder) and len({*self._root.shards()} - _NO_MODES) <= 1:
            prune(self._folder, alive)

    def explain(self, parts: Mapping[str, Part]) -> dict[str, Any]:
        """Return how ``parts`` compare with the nearest entry that was made of the same source.

        ``noted``: entries of this source; ``parts``: by name ``"same"``, ``"differs"`` or ``"unknown"``; ``nearest``:
        its key.
        """
        source, names, others = self._digests(parts)
        slots = _slots(sorted(parts.keys() - {self._source}))
        mine = self._of_source(source)
        same_names = mine[_rows(mine["names"], names)]
        if not len(same_names):
            state = "unknown" if not len(mine) else "same"
            states = dict.fromkeys((name for slot in slots for name in slot), "unknown")
            return {"noted": len(mine), "nearest": None, "parts": {self._source: state, **states}}
        equal = np.stack([_rows(same_names["parts"][:, at], other) for at, other in enumerate(others)], axis=1)
        best = len(equal) - 1 - int(np.argmax(equal.sum(axis=1)[::-1]))  # the latest of the nearest
        states = {}
        for slot, same in zip(slots, equal[best].tolist()):
            # of several parts with one digest nobody knows which differs
            states |= dict.fromkeys(slot, "same" if same else "differs" if len(slot) == 1 else "unknown")
        nearest = bytes(same_names[best]["key"]).hex()
        return {"noted": len(mine), "nearest": nearest, "parts": {self._source: "same", **states}}

    def keys_of(self, source: Part) -> list[Key]:
        """Return the keys of all entries that were noted as made of this source."""
        mine = self._of_source(self._source_digest(source))
        return sorted({Key(bytes(key)) for key in mine["key"]}, key=lambda key: key.digest)

    def keys_with(self, names: Iterable[str]) -> list[Key]:
        """Return the keys of all entries that were noted with exactly these parts beside the source."""
        wanted = self._names_digest(sorted(names))
        found = (records["key"][_rows(records["names"], wanted)] for records in self._records())
        return [Key(bytes(key)) for key in {bytes(each) for keys in found for each in keys}]

    def _of_source(self, source: bytes) -> np.ndarray[Any, Any]:
        """Return the records of a source that a holder of the secret wrote."""
        found = [records[_rows(records["source"], source)] for records in self._records()]
        mine = np.concatenate(found) if found else np.zeros(0, RECORD)
        ours: np.ndarray[Any, Any] = mine[np.array([is_signed(row.tobytes(), self._secret) for row in mine], bool)]
        return ours

    def close(self) -> None:
        """Give the folder's handles back."""
        self._folder.close()
        self._root.close()

    def _records(self) -> list[np.ndarray[Any, Any]]:
        try:
            return [records for _, records in JournalReader(self._folder, SUFFIX, RECORD).poll()[0]]
        except (OSError, IntegrityError):
            return []

    def _digests(self, parts: Mapping[str, Part]) -> tuple[bytes, bytes, list[bytes]]:
        """Digests of the source, the names and the others."""
        ordered = sorted(parts.keys() - {self._source})
        if self._source not in parts or not ordered:
            raise EntryError(f"an entry has a part {self._source!r} and others; got {', '.join(sorted(parts))}")

        of = self._digest
        others = [
            of(slot[0], parts[slot[0]])
            if len(slot) == 1
            else Key.of(self._secret, **{n: parts[n] for n in slot}).digest
            for slot in _slots(ordered)
        ]
        names = self._names_digest(ordered)
        return of("source", parts[self._source])[:8], names, [other[:3] for other in others]

    def _names_digest(self, ordered: list[str]) -> bytes:
        return self._digest("names", "\0".join(ordered))[:8]

    def _digest(self, name: str, value: Part) -> bytes:
        """Return the digest of one part; it is remembered, because most recur."""
        found = self._known.get((name, value))
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = self._known[name, value] = Key.of(self._secret, **{name: value}).digest
        return found

    def _source_digest(self, source: Part) -> bytes:
        return Key.of(self._secret, source=source).digest[:8]


def _slots(names: list[str]) -> list[list[str]]:
    """Which parts each digest of a record stands for: one each, and the last for all that are left."""
    if len(names) <= SLOTS:
        return [[name] for name in names]
    return [*([name] for name in names[: SLOTS - 1]), names[SLOTS - 1 :]]


def _rows(column: np.ndarray[Any, Any], wanted: bytes) -> np.ndarray[Any, Any]:
    """bool[n]: which rows of a column of raw bytes are ``wanted``."""
    width = len(wanted)
    data = np.ascontiguousarray(column).view(np.uint8).reshape(len(column), width)
    same: np.ndarray[Any, Any] = (data == np.frombuffer(wanted, np.uint8)).all(axis=1)
    return same
