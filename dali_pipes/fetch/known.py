"""What a fetcher knows of samples by their numbers, in flat arrays: a few tens of bytes each."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

_UNKNOWN = bytes(16)

ATTRIBUTES_KEPT = 1000
"""Characters of a sample's attributes that are kept in memory. VOI look-up tables make them a hundred times as long:
such are read from the cache each time, so that a large data set does not fill the memory.
"""

MOST = 1 << 20
"""Characters of different attributes that are kept in all."""


class Known:
    """The keys of base images that were found or made, and at depth 16 their attributes; safe to use from threads.

    Args:
        count: how many samples there are.
        deep: whether they have attributes.
    """

    def __init__(self, count: int, deep: bool) -> None:
        self._digests = np.zeros((count, 16), np.uint8)  # pages of it exist when they are written
        self._bytes = self._digests.reshape(-1).data
        self._numbers = np.full(count if deep else 0, -1, np.int32)
        self._texts: list[str] = []
        self._number_of: dict[str, int] = {}
        self._room = MOST
        self._lock = threading.Lock()

    def key(self, sample: int) -> bytes | None:
        """Return the digest of a sample's key; None where it is not known, or its attributes are not kept."""
        digest = bytes(self._bytes[16 * sample : 16 * sample + 16])
        return None if digest == _UNKNOWN else digest

    def keys(self, samples: Sequence[int]) -> list[bytes | None]:
        """Return `key` of each of the samples."""
        rows = self._digests[np.asarray(samples, np.int64)].tobytes()
        found = [rows[first : first + 16] for first in range(0, len(rows), 16)]
        return [None if digest == _UNKNOWN else digest for digest in found]

    def attributes(self, sample: int) -> str:
        """Return the attributes of a sample whose key is known."""
        return self._texts[int(self._numbers[sample])]

    def keep(self, sample: int, digest: bytes, attributes: str | None = None) -> bool:
        """Note a sample's key, and its attributes: most of them recur, and are kept once.

        Returns False, and notes nothing, where there is no room for the attributes.
        """
        if attributes is not None:
            number = self._number(attributes)
            if number < 0:
                return False
            self._numbers[sample] = number
        self._bytes[16 * sample : 16 * sample + 16] = digest
        return True

    def _number(self, text: str) -> int:
        """Return the number of a text, -1 where there is no room for it."""
        with self._lock:
            number = self._number_of.get(text, -1)
            if number < 0 and len(text) <= min(ATTRIBUTES_KEPT, self._room):
                self._room -= len(text)
                number = self._number_of[text] = len(self._texts)
                self._texts.append(text)
            return number
