"""The protocol that every store speaks, and stores by the name of their mode.

| mode | where entries are | who shares them |
|---|---|---|
| ``none`` | nowhere | |
| ``memory`` | this process's memory; with ``shared=True`` one copy for a machine's workers | threads; workers |
| ``disk`` | one PNG an entry | all processes |
| ``npy`` | one ``.npy`` an entry | all processes |
| ``tensor-disk`` | one ``.pt`` an entry | all processes |
| ``tensor-memmap`` | one ``.dat`` and one ``.json`` an entry, memory-mapped | all processes |
| ``pinned`` | packed ``.npy`` segments, memory-mapped, page-locked on CUDA hosts | all processes |
| ``tiered`` | memory over any of the disk modes, optionally over a shared read-only folder | |
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from .base import Array, BaseStore, Options, Verify
from .errors import StoreConfigError
from .key import Key

MODES = ("none", "memory", "disk", "npy", "tensor-disk", "tensor-memmap", "pinned", "tiered")
DISK_MODES = ("disk", "npy", "tensor-disk", "tensor-memmap", "pinned")
PERSISTENT_MODES = (*DISK_MODES, "tiered")
_CLASSES = {  # imported when asked for: torch takes seconds
    "disk": ("png", "PngStore"),
    "npy": ("npyfile", "NpyStore"),
    "tensor-disk": ("tensor_file", "TensorFileStore"),
    "tensor-memmap": ("tensor_memmap", "TensorMemmapStore"),
    "pinned": ("packed", "PackedStore"),
}


@runtime_checkable
class Store(Protocol):
    """Arrays under keys. What ``get`` gives is exactly what was put, or None.

    ``direct``: ``get`` of a warm entry is a view or a look-up, not worth handing to a thread. ``persistent``: entries
    outlive the process.
    """

    mode: str
    direct: bool
    persistent: bool
    directory: str | None

    def get(self, key: Key) -> Array | None:
        """The entry, read-only and C-contiguous, or None."""

    def put(self, key: Key, array: Array) -> None:
        """Stores a copy of ``array`` (bool, int, uint, float or complex of any shape). Raises EntryError for others."""

    def contains(self, key: Key) -> bool:
        """Whether there is an entry."""

    def delete(self, key: Key) -> bool:
        """Removes an entry; False if there was none."""

    def keys(self) -> list[Key]:
        """The keys of all entries."""

    def stats(self) -> dict[str, Any]:
        """``mode, directory, entries, bytes, hits, misses, puts, evicted, corrupt, errors`` and what a mode adds."""

    def close(self) -> None:
        """Ends the use of this instance."""

    def __enter__(self) -> Store:
        """The store itself."""

    def __exit__(self, *_: Any) -> None:
        """Closes it."""


class NullStore(BaseStore):
    """Keeps nothing: the ``none`` mode."""

    mode = "none"


def open_store(
    mode: str,
    directory: str | os.PathLike[str] | None = None,
    *,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    verify: Verify = "first",
    read_only: bool = False,
    strict: bool = False,
    shared_group: str | int | None = None,
    secret: bytes | None = None,
    shared: bool = False,
    over: str = "npy",
    base: str | os.PathLike[str] | None = None,
) -> Store:
    """Opens the store of a mode (one of ``MODES``).

    directory: the cache's folder, made if missing; needed by every mode that persists.
    memory_bytes, disk_bytes: budgets; the least recently used entries leave first. Memory has a quarter of RAM by
      default.
    verify: check an entry's bytes at its ``"first"`` read by this store, ``"always"``, or ``"never"`` (trusts disk
      and power).
    read_only: writes nothing to disk, not even what it learns of damaged entries.
    strict: raise StoreIOError and IntegrityError instead of counting, warning once and answering with a miss.
    shared_group: a group that may read and write what is made. Said when the cache is made; later openings keep to
      it, but of a cache that another user made in or below a folder in which anyone may write (/tmp). Without it
      only this user may.
    secret: 16 to 64 bytes; checksums are then keyed, for a folder into which others can write.
    shared: for ``memory``: one copy for all worker processes of this machine.
    over, base: for ``tiered``: the disk mode below memory, and a shared folder of that mode which is only read.

    Raises StoreConfigError for a combination that cannot work.
    """
    options = Options(memory_bytes, disk_bytes, verify, read_only, strict, shared_group, secret)
    if mode not in MODES:
        raise StoreConfigError(f"no cache mode {mode!r}: choose one of {', '.join(MODES)}")
    if mode == "none":
        return NullStore(options)
    if mode == "memory":
        from .memory import MemoryStore
        from .shared import SharedMemoryStore

        return SharedMemoryStore(options) if shared else MemoryStore(options)
    if directory is None:
        raise StoreConfigError(f"cache mode {mode!r} keeps its entries in a folder: say which (directory=, cache_dir=)")
    if mode == "tiered":
        from .tiered import TieredStore

        return TieredStore(directory, options, open_disk(over), base)
    return open_disk(mode)(directory, options)


def open_disk(mode: str) -> Callable[..., BaseStore]:
    """The class of a disk mode; called with (directory, options)."""
    if mode not in DISK_MODES:
        raise StoreConfigError(f"no disk mode {mode!r}: choose one of {', '.join(DISK_MODES)}")
    module, name = _CLASSES[mode]
    chosen: Callable[..., BaseStore] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return chosen
