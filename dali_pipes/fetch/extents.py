"""The sizes of samples' sources: what crops and matrices depend on besides the base image.

A size is known once its source was decoded. It is kept beside the base image in the cache, so that a warm run has it
without the source; where an older cache lacks it, it is read from the file's headers, and nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.decode import DecodePolicy, Kind, extent

Parts = Mapping[str, str | int | bytes]


class Extents:
    """Height and width of each source.

    Args:
        count: how many samples there are.
        store, ledger: where sizes are kept, and what their keys are made of.
        policy: how files are read.
    """

    def __init__(self, count: int, store: cache.Store, ledger: cache.PartsLedger | None, policy: DecodePolicy) -> None:
        self._known = np.zeros((count, 2), np.int32)
        self._store, self._ledger, self._policy = store, ledger, policy

    def of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return height and width of samples that were fetched, int64[N, 2]."""
        return self._known[samples].astype(np.int64)

    def keep(self, sample: int, size: tuple[int, ...], key: cache.Key, parts: Parts) -> None:
        """Note the size that decoding gave, here and in the cache."""
        self._known[sample] = size
        self._store.put(key, np.array(size, np.int32))
        if self._ledger is not None:
            self._ledger.note(key, parts)

    def take(self, sample: int, kept: npt.NDArray[Any] | None) -> bool:
        """Note what the cache keeps of a sample's size, if anything; return whether the size is known now."""
        if self._known[sample].all():
            return True
        if kept is None or kept.shape != (2,):
            return False
        self._known[sample] = kept
        return True

    def find(
        self, sample: int, read: Callable[[], bytes | memoryview], kind: Kind, key: cache.Key, parts: Parts
    ) -> None:
        """Find the size of a sample that was not decoded here: in the cache, else in the headers of the file.

        Raises:
            DecodeError: the headers cannot be read. OSError: the file cannot.
        """
        if not self.take(sample, None) and not self.take(sample, self._store.get(key)):
            self.keep(sample, extent(read(), kind, int(parts["frame"]), self._policy), key, parts)

    def read(self, sample: int, data: bytes | memoryview, kind: Kind) -> None:
        """Note the size that a file's headers state, here only."""
        self._known[sample] = extent(data, kind, 0, self._policy)
