"""Stores by the name of their mode.

| mode | where entries are | who shares them |
|---|---|---|
| ``none`` | nowhere | |
| ``memory`` | this process's memory; with ``shared=`` one copy for a machine's workers, or ranks | threads; workers |
| ``disk`` | one PNG an entry | all processes |
| ``npy`` | one ``.npy`` an entry | all processes |
| ``tensor-disk`` | one ``.pt`` an entry | all processes |
| ``tensor-memmap`` | one ``.dat`` and one ``.json`` an entry, memory-mapped | all processes |
| ``pinned`` | packed ``.npy`` segments, memory-mapped, page-locked on CUDA hosts | all processes |
| ``tiered`` | memory over any of the disk modes, optionally over a shared read-only folder or URL | |
"""

from __future__ import annotations

import os

from .base import Opening, Options, Store, Verify
from .errors import StoreConfigError
from .modes import MODES, PERSISTENT_MODES, find


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
    shared: bool | str = False,
    over: str = "npy",
    base: str | os.PathLike[str] | None = None,
) -> Store:
    """Open the store of a mode.

    Args:
        mode: one of ``MODES``.
        directory: the cache's folder, made if it is missing; needed by every mode that persists.
        memory_bytes, disk_bytes: budgets in bytes; the least recently used entries leave first. Memory has a quarter
            of what this process may use by default, divided among the ranks of the machine that do not share it.
        verify: check an entry's bytes when this store reads it for the ``"first"`` time, ``"always"``, or ``"never"``
            (which trusts disk and power).
        read_only: write nothing to disk, not even what is learned of damaged entries.
        strict: raise StoreIOError and IntegrityError, instead of counting, warning once and answering with a miss.
        shared_group: a group that may read and write the cache. Give it when the cache is made; later openings find
            it in the cache. One exception: in a folder in which anyone may write (such as /tmp), a cache that another
            user made must be opened with ``shared_group`` again. Without a group only this user may use the cache.
        secret: 16 to 64 bytes that key the checksums, for a folder into which others can write.
        shared: for ``memory``: one copy for all worker processes to which this store is handed, or, by a name, for all
            processes of this user and machine that give the same name. Their keys must name content.
        over, base: for ``tiered``: the disk mode below memory, and a shared folder of that mode which is only read, or
            the URL of a packed cache (``s3://bucket/prefix``), which ``dali-pipes cache push`` has filled.

    Raises:
        StoreConfigError: the combination cannot work.
    """
    if "://" in str(directory):
        raise StoreConfigError(
            f"directory={os.fspath(directory or '')!r}: a cache lies in a folder of this machine, or in one "
            "that is mounted here; give its path"
        )
    options = Options(memory_bytes, disk_bytes, verify, read_only, strict, shared_group, secret)
    if directory is not None and mode in MODES and mode not in PERSISTENT_MODES:
        raise StoreConfigError(
            f"directory={os.fspath(directory)!r}: cache mode {mode!r} keeps nothing in a folder; leave it out, "
            f"or choose one of {', '.join(PERSISTENT_MODES)}"
        )
    opening = Opening(
        options,
        None if directory is None else os.fspath(directory),
        shared,
        over,
        None if base is None else os.fspath(base),
    )
    return find(mode).store().open(opening)
