"""What all stores share: options, counters, failing open, refusing after close, and reopening in another process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np

from .access import Access
from .errors import CacheError, IntegrityError, StoreConfigError, StoreIOError
from .files import access_to
from .key import Key

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
        """Modes and group of what the store writes into a cache."""
        return access_to(directory, self.shared_group)


class BaseStore:
    """Template of a store: subclasses give ``_get, _put, _contains, _delete, _keys, _extra_stats``.

    Those may raise OSError and IntegrityError: here they become misses, counted and warned of once, or errors.
    """

    mode = "none"
    direct = True
    persistent = False
    directory: str | None = None

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hits = self.misses = self.puts = self.evicted = self.corrupt = self.errors = 0
        self._read_only = options.read_only
        self._warned: set[str] = set()
        self._closed = False

    # -- the protocol --------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Array | None:
        """The entry, read-only and C-contiguous, or None."""
        self._check_open()
        try:
            found = self._get(key)
        except (OSError, IntegrityError) as error:
            self._failed("read", error)
            found = None
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: Key, array: Array) -> None:
        """Stores a copy of ``array`` under ``key``; replaces an entry with other content."""
        self._check_open()
        if self._read_only:
            return
        try:
            self._put(key, array)
            self.puts += 1
        except (OSError, IntegrityError) as error:
            self._failed("write", error)

    def contains(self, key: Key) -> bool:
        """Whether there is an entry (which a check of its bytes may still refuse)."""
        self._check_open()
        try:
            return self._contains(key)
        except OSError as error:
            self._failed("read", error)
            return False

    def delete(self, key: Key) -> bool:
        """Removes an entry; False if there was none. Arrays handed out before stay valid."""
        self._check_open()
        if self._read_only:
            return False
        try:
            return self._delete(key)
        except OSError as error:
            self._failed("delete", error)
            return False

    def keys(self) -> list[Key]:
        """The keys of all entries, in no order."""
        self._check_open()
        try:
            return self._keys()
        except OSError as error:
            self._failed("list", error)
            return []

    def stats(self) -> dict[str, Any]:
        """Counters of this instance, and ``entries`` and ``bytes`` of the whole store. Plain JSON values."""
        counters = {name: getattr(self, name) for name in ("hits", "misses", "puts", "evicted", "corrupt", "errors")}
        extra: dict[str, Any] = {"entries": 0, "bytes": 0}
        if not self._closed:
            try:
                extra = self._extra_stats()
            except OSError as error:
                self._failed("list", error)
        return {"mode": self.mode, "directory": self.directory, **extra, **counters}

    def close(self) -> None:
        """Ends the use of this instance; arrays handed out stay valid."""
        self._closed = True

    def __enter__(self) -> Any:
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
        """Counts a failure and warns of the first of its kind; raises it if the store is strict."""
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
        """Counts an entry that must not be served; raises IntegrityError if the store is strict, else it is a miss."""
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
