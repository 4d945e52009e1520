"""The class of all stores: options, counters, failing open, and refusing to work after ``close``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from .access import Access
from .errors import CacheError, IntegrityError, StoreConfigError, StoreIOError
from .key import Key
from .tagging import access_to

LOG = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
Verify = Literal["always", "first", "never"]


@dataclass(frozen=True)
class Options:
    """How a store behaves; the meaning of each is at :func:`.open_store`."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None
    verify: Verify = "first"
    read_only: bool = False
    strict: bool = False
    shared_group: str | int | None = None
    secret: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "disk_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
                raise StoreConfigError(f"{name}={value!r}: give a positive number of bytes, or None")
        if self.verify not in ("always", "first", "never"):
            raise StoreConfigError(f"verify={self.verify!r}: allowed are 'always', 'first' and 'never'")
        if self.secret is not None and not 16 <= len(self.secret) <= 64:
            raise StoreConfigError(
                f"secret has {len(self.secret)} bytes; 16 to 64 are allowed: see dali_pipes.cache.default_secret()"
            )

    def __repr__(self) -> str:
        return f"Options(verify={self.verify!r}, read_only={self.read_only}, strict={self.strict})"  # never the secret

    def access_to(self, directory: str) -> Access:
        """Return modes and group of what the store writes into a cache."""
        return access_to(directory, self.shared_group)


@dataclass(frozen=True)
class Opening:
    """What :func:`.open_store` was asked for besides the mode; each mode takes what it needs.

    The meaning of each field is at :func:`.open_store`.
    """

    options: Options
    directory: str | None = None
    shared: bool | str = False
    over: str = "npy"
    base: str | None = None

    def folder(self, mode: str) -> str:
        """Return the cache's folder. Raises StoreConfigError if none was given."""
        if self.directory is None:
            raise StoreConfigError(
                f"cache mode {mode!r} keeps its entries in a folder: say which (directory=, cache_dir=)"
            )
        return self.directory


class Store:
    """Arrays under keys: ``get`` gives exactly what was ``put``, or None.

    A mode inherits this and gives ``_get, _put, _contains, _delete, _keys, _extra_stats``. Those may raise OSError,
    MemoryError and IntegrityError: here these become misses, counted and warned of once, or errors if the store is
    strict.

    Attributes:
        mode: name of the mode.
        direct: ``get`` of a warm entry is a view or a look-up, not worth handing to a thread.
        decodes: ``get`` takes milliseconds of computing or waiting, so that every entry is worth a task of its own.
        distant: ``get`` may wait for a server; many at once cost no more than one.
        persistent: entries outlive the process.
        directory: the cache's folder, or None.
        options: how it was opened.
        pattern: what the names of its files look like, relative to the folder of the mode; None if it has no folder.
    """

    mode: ClassVar[str] = "none"
    direct: bool = True
    decodes: bool = False
    distant: bool = False
    persistent: ClassVar[bool] = False
    pattern: ClassVar[re.Pattern[str] | None] = None
    directory: str | None = None

    @classmethod
    def open(cls, opening: Opening) -> Store:
        """Open a store of this mode. Raises StoreConfigError for a combination that cannot work."""
        return cls(opening.options)

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hits = self.misses = self.puts = self.evicted = self.corrupt = self.errors = 0
        self._read_only = options.read_only
        self._warned: set[str] = set()
        self._closed = False

    # -- the protocol --------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Array | None:
        """Return the entry, read-only and C-contiguous, or None."""
        self._check_open()
        try:
            found = self._get(key)
        except (OSError, MemoryError, IntegrityError) as error:
            self._failed("read", error)
            found = None
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def known(self, key: Key) -> Array | None:
        """Return what ``get`` returns; None too, uncounted, where it would have to look for others' news first."""
        return self.get(key)

    def put(self, key: Key, array: Array) -> None:
        """Store a copy of ``array`` under ``key``; an entry with other content is replaced.

        ``array``: bool, int, uint, float or complex, of any shape. Raises EntryError for anything else.
        """
        self._check_open()
        if self._read_only:
            return
        try:
            self._put(key, array)
            self.puts += 1
        except (OSError, MemoryError, IntegrityError) as error:
            self._failed("write", error)

    def contains(self, key: Key) -> bool:
        """Return whether there is an entry (which a check of its bytes may still refuse)."""
        self._check_open()
        try:
            return self._contains(key)
        except OSError as error:
            self._failed("read", error)
            return False

    def delete(self, key: Key) -> bool:
        """Remove an entry; False if there was none. Arrays handed out before stay valid."""
        self._check_open()
        if self._read_only:
            return False
        try:
            return self._delete(key)
        except OSError as error:
            self._failed("delete", error)
            return False

    def keys(self) -> list[Key]:
        """Return the keys of all entries, in no order."""
        self._check_open()
        try:
            return self._keys()
        except OSError as error:
            self._failed("list", error)
            return []

    def stats(self) -> dict[str, Any]:
        """Return counters of this instance, and ``entries`` and ``bytes`` of the whole store, as plain JSON values.

        ``mode, directory, entries, bytes, hits, misses, puts, evicted, corrupt, errors`` and what a mode adds.
        """
        counters = {name: getattr(self, name) for name in ("hits", "misses", "puts", "evicted", "corrupt", "errors")}
        extra: dict[str, Any] = {"entries": 0, "bytes": 0}
        if not self._closed:
            try:
                extra = self._extra_stats()
            except OSError as error:
                self._failed("list", error)
        return {"mode": self.mode, "directory": self.directory, **extra, **counters}

    def close(self) -> None:
        """End the use of this instance; arrays handed out stay valid."""
        self._closed = True

    # -- upkeep: what a mode without files has nothing to do for ------------------------------------------------------

    def agree(self, secret: bytes) -> None:
        """Make sure that names here are made with ``secret``; whoever makes names calls this first.

        Raises SecretError if they were made with another (:mod:`.agreement`).
        """

    def page_lock(self, budget_bytes: int | None = None) -> int:
        """Page-lock what is mapped and will not change, for copies to a GPU; return how many bytes are locked now.

        ``budget_bytes``: lock at most so many in all, those of earlier calls included. What is locked stays so until
        ``close``, or until the next call after it was evicted. 0 without CUDA, and for modes that map nothing.
        """
        return 0

    def refresh(self) -> None:
        """Notice files that were replaced in place behind the store's back. Call it when an epoch begins."""
        self._check_open()

    def orphans(self) -> list[str]:
        """Return the names of files that dead processes left half made."""
        return []

    def trim(self, dry_run: bool = False) -> int:
        """Remove the least recently used entries until the budget is kept; return how many (or how many would be)."""
        return 0

    def compact(self, dry_run: bool = False) -> int:
        """Merge small files into fewer; return by how many there are fewer, or would be."""
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r}, directory={self.directory!r})"

    # -- for subclasses ------------------------------------------------------------------------------------------------

    def _get(self, key: Key) -> Array | None:
        return None

    def _put(self, key: Key, array: Array) -> None:
        return

    def _contains(self, key: Key) -> bool:
        return False

    def _delete(self, key: Key) -> bool:
        return False

    def _keys(self) -> list[Key]:
        return []

    def _extra_stats(self) -> dict[str, Any]:
        return {"entries": 0, "bytes": 0}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreConfigError(
                f"this {self.mode!r} store is closed: open another with open_store({self.mode!r}, ...)"
            )

    def _failed(self, doing: str, error: Exception) -> None:
        """Count a failure and warn of the first of its kind; raise it if the store is strict."""
        self.errors += not isinstance(error, IntegrityError)
        if self.options.strict:
            if isinstance(error, CacheError):
                raise error
            raise StoreIOError(error.args[0] if error.args else 0, f"the cache cannot {doing}: {error}") from error
        if doing not in self._warned:
            self._warned.add(doing)
            LOG.warning(
                "the cache in %s cannot %s (%s): going on without it; later failures are only counted",
                self.directory or "memory",
                doing,
                error,
            )

    def _refuse(self, key: Key, why: str) -> None:
        """Count an entry that must not be served; raise IntegrityError if the store is strict."""
        self.corrupt += 1
        if self.options.strict:
            raise IntegrityError(
                f"entry {key.hex[:12]} of the {self.mode!r} cache is not what was put: {why}; it was set aside"
            )
        if "corrupt" not in self._warned:
            self._warned.add("corrupt")
            LOG.warning(
                "the %s cache in %s holds a damaged entry (%s): rebuilding it; later ones are only counted",
                self.mode,
                self.directory or "memory",
                why,
            )
