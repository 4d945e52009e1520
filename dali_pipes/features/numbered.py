"""Short lists that many processes add to, in a store that has only keys: the n-th element lies under a key of its own.

Two processes may give one number to two elements; the later one stays. Whoever added an element therefore makes sure
now and then that it is still there.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from dali_pipes import cache
from dali_pipes.errors import ConfigError
from dali_pipes.items.item_codec import Bytes


class Numbered:
    """Lists in a store, each named by bytes; at most `most` elements long.

    Args:
        store: where they are.
        secret: keys the names of entries.
        most: how long a list may become.
    """

    def __init__(self, store: cache.Store, secret: bytes, most: int) -> None:
        self._store, self._secret, self.most = store, secret, most

    def key(self, name: bytes, number: int) -> cache.Key:
        """Return the key of an element."""
        hasher = blake2b(b"%d:%s%d" % (len(name), name, number), digest_size=16, key=self._secret)
        return cache.Key(hasher.digest())

    def get(self, name: bytes, number: int) -> Bytes | None:
        """Return an element, uint8[n], or None where the list ends."""
        found = self._store.get(self.key(name, number)) if number < self.most else None
        return found if found is not None and found.dtype == np.uint8 and found.ndim == 1 else None

    def elements(self, name: bytes) -> Iterator[Bytes]:
        """Yield all elements of a list."""
        for number in range(self.most):
            found = self.get(name, number)
            if found is None:
                return
            yield found

    def ensure(self, name: bytes, element: Bytes) -> int:
        """Make sure that a list holds an element; return its number.

        Raises:
            ConfigError: the list is full.
        """
        for number in range(self.most):
            found = self.get(name, number)
            if found is None:
                self._store.put(self.key(name, number), element)
                return number
            if np.array_equal(found, element):
                return number
        raise ConfigError(f"a list in the cache has {self.most} elements and takes no more.")
