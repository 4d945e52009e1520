"""The ``tiered`` mode: memory over a disk mode, optionally over a shared folder, or a URL, that is only read.

``get`` asks memory, then the disk, then the shared folder, and keeps in memory what the lower ones gave. ``put`` goes
to disk and memory. Entries of a folder that is only read (the shared one; both, if the store is read-only) are never
changed: deleting one hides it from this instance only, and what a read-only store is given it keeps in memory.
What comes from behind a URL (:mod:`.bucket`) is kept on disk too, until that has had to evict something: then the rest
stays where it is, and what is on disk stays there.
Memory is this process's own, so an entry that another process replaces is seen when it has left memory (keys that
name their content never need that).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Any

from .base import LOG, Array, Opening, Options, Store
from .bucket import BucketStore
from .key import Key
from .memory import MemoryStore
from .modes import DISK_MODES, find_disk
from .objects import is_url


class TieredStore(Store):
    """See the module. ``disk`` is the class of the disk mode; ``base`` is the shared folder or URL."""

    mode = "tiered"
    persistent = True
    directory: str

    @classmethod
    def open(cls, opening: Opening) -> Store:
        """Open memory over the mode ``opening.over``. Raises StoreConfigError for a mode that is not on disk."""
        directory = opening.folder(cls.mode)
        return cls(directory, opening.options, opening.over, opening.base)

    def __init__(self, directory: str, options: Options, over: str, base: str | None = None) -> None:
        super().__init__(options)
        self._arguments = (over, base)
        self.directory = os.path.abspath(directory)
        self._read_only = False  # memory is this process's own; the folders refuse by themselves
        disk = find_disk(over).store()
        self.memory = MemoryStore(replace(options, read_only=False))
        self.disk = disk.open(Opening(options, self.directory))
        self.base: Store | None = None
        if base is not None and is_url(base):
            self.base = BucketStore(base, options, None if options.read_only else self.directory)
        elif base is not None:
            _warn_of_nothing(base, over)
            self.base = disk.open(Opening(replace(options, read_only=True, disk_bytes=None), base))
        self._below = [self.disk] if self.base is None else [self.disk, self.base]
        self.distant = self.base is not None and self.base.distant
        self.decodes = self.disk.decodes or self.distant
        self.direct = self.disk.direct and not self.distant
        self._hidden: set[bytes] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.options, *self._arguments)

    def _get(self, key: Key) -> Array | None:
        found = self.memory.get(key)
        if found is not None:
            return found
        for folder in self._below:
            found = folder.get(key) if self._shows(folder, key) else None
            if found is not None:
                if folder.distant and not self.disk.evicted:
                    self.disk.put(key, found)
                with contextlib.suppress(MemoryError):  # what was found is good without a copy of it
                    self.memory._put(key, found)
                return found
        return None

    def _shows(self, folder: Store, key: Key) -> bool:
        """Whether an entry of a folder is one of this store."""
        return key.digest not in self._hidden or not folder.options.read_only

    def _put(self, key: Key, array: Array) -> None:
        self.disk.put(key, array)
        self.memory._put(key, array)
        if not self.options.read_only:
            self._hidden.discard(key.digest)

    def _contains(self, key: Key) -> bool:
        return self.memory.contains(key) or any(
            folder.contains(key) for folder in self._below if self._shows(folder, key)
        )

    def _delete(self, key: Key) -> bool:
        there = [self.memory.delete(key), self.disk.delete(key)]
        for folder in self._below:
            if folder.options.read_only and self._shows(folder, key) and folder.contains(key):
                self._hidden.add(key.digest)
                there.append(True)
        return any(there)

    def _keys(self) -> list[Key]:
        found = set(self.memory.keys())
        for folder in self._below:
            found.update(key for key in folder.keys() if self._shows(folder, key))  # noqa: SIM118
        return list(found)

    def agree(self, secret: bytes) -> None:
        """Make sure that names below are made with ``secret``. Raises SecretError if they were made with another."""
        for folder in self._below:
            folder.agree(secret)

    def page_lock(self, budget_bytes: int | None = None) -> int:
        """Page-lock what lies under memory, as :meth:`.Store.page_lock` says; the budget is for all of it."""
        locked = 0
        for folder in self._below:
            locked += folder.page_lock(None if budget_bytes is None else budget_bytes - locked)
        return locked

    def refresh(self) -> None:
        """Notice files that were replaced in place below."""
        super().refresh()
        for folder in self._below:
            folder.refresh()

    def orphans(self) -> list[str]:
        """Return the names of files that dead processes left half made on disk."""
        return self.disk.orphans()

    def trim(self, dry_run: bool = False) -> int:
        """Remove the least recently used entries from disk until the budget is kept; return how many (or would be)."""
        return self.disk.trim(dry_run)

    def compact(self, dry_run: bool = False) -> int:
        """Merge small files on disk into fewer; return by how many there are fewer, or would be."""
        return self.disk.compact(dry_run)

    def _extra_stats(self) -> dict[str, Any]:
        tiers = {"memory": self.memory.stats(), "disk": self.disk.stats()}
        if self.base is not None:
            tiers["base"] = self.base.stats()
        entries, used = len(self._keys()), tiers["disk"]["bytes"]
        return {"entries": entries, "bytes": used, "budget": self.options.disk_bytes, "tiers": tiers}

    def stats(self) -> dict[str, Any]:
        """As of any store; damage, failures and evictions are those of all tiers, each of which is under ``tiers``."""
        found = super().stats()
        for name in ("corrupt", "errors", "evicted"):
            found[name] += sum(tier[name] for tier in found.get("tiers", {}).values())
        return found

    def close(self) -> None:
        """End the use of this instance and of its tiers; arrays handed out stay valid."""
        super().close()
        for tier in (self.memory, *self._below):
            tier.close()


def _warn_of_nothing(base: str, over: str) -> None:
    """Warn if a base has no entries of the mode ``over``: every look into it would be a miss, without a word."""
    held = [mode for mode in DISK_MODES if os.path.isdir(os.path.join(base, mode))]
    if over in held:
        return
    if held:
        LOG.warning("base=%r holds entries of %s, and none of over=%r: give over=%r", base, held, over, held[0])
    else:
        LOG.warning("base=%r holds no cache: nothing will be found there", base)
