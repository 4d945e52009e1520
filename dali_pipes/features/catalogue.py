"""Which samples a module's features are kept of, so that all of them can be written out.

Keys tell nothing of the samples' ids. So every batch that is kept also leaves an entry with its ids, which only who has
the secret can read: they are combined with a keystream (BLAKE2b of a counter, keyed with the secret, with another nonce
for each entry as its salt). The store's checksum says whether they are sound.

    module ──> writers, a numbered list ──> each writer's batches, numbered ──> prefix, names, ids
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from dali_pipes import cache
from dali_pipes.features.numbered import Numbered
from dali_pipes.items import item_codec
from dali_pipes.items.item_codec import Bytes

Named = tuple[bytes, list[bytes], list[str]]
"""Prefix of the keys, names and ids of some samples."""

_MOST = 1 << 20
_BLOCK = 64


class Catalogue:
    """The samples in one store.

    Args:
        store: where it is.
        secret: hides the ids; without one they are kept as they are (in memory only).
    """

    def __init__(self, store: cache.Store, secret: bytes) -> None:
        self._store, self._secret = store, secret
        self._lists = Numbered(store, secret, _MOST)
        self._process = 0

    def add(self, module: bytes, prefix: bytes, names: Sequence[bytes], ids: Sequence[str]) -> None:
        """Remember some samples of a module."""
        if self._process != os.getpid():
            self._process, self._token, self._count = os.getpid(), secrets.token_bytes(16), 0
        self._lists.ensure(b"writers" + module, np.frombuffer(self._token, np.uint8))
        packed = item_codec.pack((prefix, list(names), list(ids)))
        nonce = secrets.token_bytes(16)
        sealed = np.concatenate([np.frombuffer(nonce, np.uint8), self._combined(packed, nonce)])
        self._store.put(self._lists.key(b"samples" + module + self._token, self._count), sealed)
        self._count += 1

    def read(self, module: bytes) -> Iterator[Named]:
        """Yield what was remembered of a module, batch by batch."""
        for token in self._lists.elements(b"writers" + module):
            for sealed in self._lists.elements(b"samples" + module + token.tobytes()):
                try:
                    prefix, names, ids = item_codec.unpack(self._combined(sealed[16:], sealed[:16].tobytes()))
                except (ValueError, TypeError):  # made with another secret
                    continue
                yield prefix, names, ids

    def _combined(self, data: Bytes, nonce: bytes) -> Bytes:
        if not self._secret:
            return data
        blocks = -(-len(data) // _BLOCK)
        stream = b"".join(
            blake2b(b"%d" % at, key=self._secret, salt=nonce, person=b"dali-pipes ids").digest() for at in range(blocks)
        )
        combined: Bytes = data ^ np.frombuffer(stream, np.uint8)[: len(data)]
        return combined
