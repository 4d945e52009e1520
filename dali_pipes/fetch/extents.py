"""The sizes of samples' sources: what crops and matrices depend on besides the base image.

A size is known once its source was decoded. It is kept beside the base image in the cache, so that a warm run has it
without the source; where an older cache lacks it, it is read from the file's headers, and nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.decode import DecodePolicy, Kind, extent

Parts = Mapping[str, str | int | bytes]


class Extents:
    """Height and width of each source.

    Args:
        count: how many samples there are.
        store, secret, ledger: where sizes are kept, and how their keys are made and noted.
        policy: how files are read.
    """

    def __init__(
        self, count: int, store: cache.Store, secret: bytes, ledger: cache.PartsLedger | None, policy: DecodePolicy
    ) -> None:
        self._known = np.zeros((count, 2), np.int32)
        self._store, self._secret, self._ledger, self._policy = store, secret, ledger, policy

    def of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return height and width of samples that were fetched, int64[N, 2]."""
        return self._known[samples].astype(np.int64)

    def keep(self, sample: int, size: tuple[int, ...], parts: Parts) -> None:
        """Note the size that decoding gave, here and in the cache."""
        self._known[sample] = size
        key = self._key(parts)
        self._store.put(key, np.array(size, np.int32))
        if self._ledger is not None:
            self._ledger.note(key, parts)

    def find(self, sample: int, read: Callable[[], bytes | memoryview], kind: Kind, parts: Parts) -> None:
        """Find the size of a sample that was not decoded here: in the cache, else in the headers of the file.

        Raises:
            DecodeError: the headers cannot be read. OSError: the file cannot.
        """
        if self._known[sample].all():
            return
        kept = self._store.get(self._key(parts))
        if kept is not None and kept.shape == (2,):
            self._known[sample] = kept
            return
        self.keep(sample, extent(read(), kind, int(parts["frame"]), self._policy), parts)

    def read(self, sample: int, data: bytes | memoryview, kind: Kind) -> None:
        """Note the size that a file's headers state, here only."""
        self._known[sample] = extent(data, kind, 0, self._policy)

    def _key(self, parts: Parts) -> cache.Key:
        return cache.Key.of(self._secret, **parts, extent=1)
