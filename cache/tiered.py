"""The ``tiered`` mode: memory over a disk mode, optionally over a shared folder that is only read.

``get`` asks memory, then the disk, then the shared folder, and keeps in memory what the lower ones gave. ``put`` goes
to disk and memory. Entries of the shared folder are never changed: deleting one hides it from this instance only.
Memory is this process's own, so an entry that another process replaces is seen when it has left memory (keys that
name their content never need that).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .base import Array, BaseStore, Options
from .key import Key
from .memory import MemoryStore

Disk = Callable[[str | os.PathLike[str], Options], BaseStore]


class TieredStore(BaseStore):
    """See the module. ``disk`` opens the disk mode; ``base`` is the shared folder."""

    mode = "tiered"
    persistent = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        options: Options,
        disk: Disk,
        base: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(options)
        self._arguments = (disk, base)
        self.directory = os.path.abspath(os.fspath(directory))
        self.memory = MemoryStore(options)
        self.disk = disk(directory, options)
        self.base = None if base is None else disk(base, replace(options, read_only=True, disk_bytes=None))
        self.direct = self.disk.direct
        self._hidden: set[bytes] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.options, *self._arguments)

    def _get(self, key: Key) -> Array | None:
        found = self.memory.get(key)
        if found is not None:
            return found
        found = self.disk.get(key)
        if found is None and self.base is not None and key.digest not in self._hidden:
            found = self.base.get(key)
        if found is not None:
            self.memory._put(key, found)
        return found

    def _put(self, key: Key, array: Array) -> None:
        self.disk.put(key, array)
        self.memory._put(key, array)
        self._hidden.discard(key.digest)

    def _contains(self, key: Key) -> bool:
        return self.memory.contains(key) or self.disk.contains(key) or self._in_base(key)

    def _in_base(self, key: Key) -> bool:
        return self.base is not None and key.digest not in self._hidden and self.base.contains(key)

    def _delete(self, key: Key) -> bool:
        there = [self.memory.delete(key), self.disk.delete(key), self._in_base(key)]
        if there[2]:
            self._hidden.add(key.digest)
        return any(there)

    def _keys(self) -> list[Key]:
        below = [key for key in self.base._keys() if key.digest not in self._hidden] if self.base is not None else []
        return list({*self.memory.keys(), *self.disk.keys(), *below})

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
        super().close()
        for tier in (self.memory, self.disk, self.base):
            if tier is not None:
                tier.close()
