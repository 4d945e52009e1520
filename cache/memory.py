"""Entries in this process's memory, the least recently used leaving first when the byte budget is full.

The copy is this process's own: threads share it, a forked child inherits what was there at the fork, and it cannot be
pickled. For one copy shared by all worker processes of a machine open the store with ``shared=True`` (see
:mod:`.shared`), and for one shared by all that give the same name, with ``shared="a name"`` (see :mod:`.named`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NoReturn

import numpy as np

from .base import LOG, Array, Opening, Options, Store
from .errors import StoreConfigError, StoreIOError
from .integrity import read_only, storable
from .key import Key
from .limits import default_memory_bytes, local_ranks, memory_limit
from .lock import ProcessLock

OVERHEAD = 256  # bytes that an entry costs beside its payload: key, array object, table slot


class MemoryStore(Store):
    """See the module.

    ``memory_bytes`` bounds payloads plus 256 bytes an entry; by default this rank's share of a quarter of the memory.
    """

    mode = "memory"

    @classmethod
    def open(cls, opening: Opening) -> Store:
        """Open a store of this process's own, or one that workers or all processes share."""
        if isinstance(opening.shared, str) and opening.shared:
            return _named(opening.options, opening.shared) or cls(opening.options)
        if opening.shared:
            from .shared import SharedMemoryStore  # most never need it

            return SharedMemoryStore(opening.options)
        return cls(opening.options)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.budget = options.memory_bytes or default_memory_bytes()
        if self.budget * local_ranks() > (limit := memory_limit()):
            each = f" for each of {local_ranks()} ranks of this machine" if local_ranks() > 1 else ""
            LOG.warning(
                "memory_bytes=%d%s is more than this process may use (%d): it may be killed before that is full",
                self.budget,
                each,
                limit,
            )
        self._entries: OrderedDict[bytes, Array] = OrderedDict()
        self._bytes = 0
        self._lock = ProcessLock()

    def _get(self, key: Key) -> Array | None:
        with self._lock:
            found = self._entries.get(key.digest)
            if found is not None:
                self._entries.move_to_end(key.digest)
        return found

    def _put(self, key: Key, array: Array) -> None:
        copy = read_only(np.array(storable(array), order="C", copy=True))
        with self._lock:
            self._drop(key.digest)
            if copy.nbytes + OVERHEAD > self.budget:
                return
            self._entries[key.digest] = copy
            self._bytes += copy.nbytes + OVERHEAD
            while self._bytes > self.budget:
                self._drop(next(iter(self._entries)))
                self.evicted += 1

    def _drop(self, digest: bytes) -> bool:
        old = self._entries.pop(digest, None)
        if old is None:
            return False
        self._bytes -= old.nbytes + OVERHEAD
        return True

    def _contains(self, key: Key) -> bool:
        return key.digest in self._entries

    def _delete(self, key: Key) -> bool:
        with self._lock:
            return self._drop(key.digest)

    def _keys(self) -> list[Key]:
        with self._lock:
            return [Key(digest) for digest in self._entries]

    def _extra_stats(self) -> dict[str, Any]:
        return {"entries": len(self._entries), "bytes": self._bytes, "budget": self.budget}

    def close(self) -> None:
        """End the use of this instance, and forget its entries; arrays handed out stay valid."""
        super().close()
        self._entries.clear()
        self._bytes = 0

    def __reduce__(self) -> NoReturn:
        raise StoreConfigError(
            "a memory store belongs to one process and cannot be sent to another: "
            "open it with open_store('memory', shared=True) for one copy shared by all workers"
        )


def _named(options: Options, name: str) -> Store | None:
    """Return memory that is shared by name; None, with a warning, if the machine has no room for it."""
    from .named import NamedMemoryStore  # most never need it

    try:
        return NamedMemoryStore(options, name)
    except OSError as error:
        if options.strict:
            raise StoreIOError(error.errno or 0, f"memory cannot be shared: {error}") from error
        LOG.warning("memory cannot be shared (%s): this process keeps a copy of its own", error)
        return None
