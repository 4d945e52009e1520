"""Which samples a cache keeps where it is smaller than the data.

Least recently used entries leave a full cache first. An epoch that asks for more than there is room for would so throw
out each entry before it is asked for again, and never find any. Here as many samples as there is room for are chosen
once, by their numbers, alike in every process and epoch; the others are decoded without being kept. So a cache with
room for half of the samples answers for half of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.cache.budget import charge
from dali_pipes.cache.memory import MemoryStore
from dali_pipes.cache.segment import DATA, capacity
from dali_pipes.cache.tiered import TieredStore
from dali_pipes.draws import random_bits
from dali_pipes.fetch.notices import Notices

Pixels = npt.NDArray[Any]

_BESIDE = {"npy": 512, "tensor-disk": 2048, "tensor-memmap": 4096, "disk": 512}
"""Bytes of an entry's files beside its pixels, at most."""

_MEASURED = 8
"""After how many entries their real size is looked at; then after twice as many, and so on."""


class Admission:
    """Decides which samples a store keeps; safe to use from any number of threads.

    Args:
        count: samples of the data set.
        store: where they are to be kept.
        flight: of that store.
        entry_bytes: of a base image.
        note_bytes: of what is kept beside each.
        notices: told where there is not room for all.
    """

    def __init__(
        self,
        count: int,
        store: cache.Store,
        flight: cache.SingleFlight,
        entry_bytes: int,
        note_bytes: int,
        notices: Notices,
    ) -> None:
        self._count, self._whole, self._flight, self._notices = count, store, flight, notices
        self._store = store.disk if isinstance(store, TieredStore) else store
        self._room, self._cost = _room(self._store, entry_bytes, note_bytes)
        # PNG's entries are smaller than their pixels, nobody knows by how much: the first ones tell.
        self._measure = _MEASURED if self._store.mode == "disk" else 0
        self._puts = 0
        self._kept: npt.NDArray[np.bool_] | None = None
        if not self._measure:
            self._choose()

    def takes(self, sample: int) -> bool:
        """Return whether the store keeps a sample."""
        return self._kept is None or bool(self._kept[sample])

    def get_or_compute(self, sample: int, key: cache.Key, compute: Callable[[], Pixels]) -> tuple[Pixels, bool]:
        """Return a sample's entry, and whether it had to be computed; it is put if the store keeps it."""
        if self.takes(sample):
            image, computed = self._flight.get_or_put(key, compute)
            if computed:
                self._put()
            return image, computed
        found = self._whole.get(key)
        return (compute(), True) if found is None else (found, False)

    def _put(self) -> None:
        self._puts += 1
        if self._measure and self._room is not None and self._puts >= self._measure:
            self._measure *= 2
            found = self._store.stats()
            if found["entries"]:
                self._cost = found["bytes"] / found["entries"] + 2048  # files end within a block of 4096
                self._choose()

    def _choose(self) -> None:
        if self._room is None or self._room >= self._cost * self._count:
            self._kept = None
            return
        most = int(self._room // self._cost)
        kept = np.zeros(self._count, np.bool_)
        kept[np.argsort(random_bits(0, 0, "admission", np.arange(self._count)))[:most]] = True
        self._kept = kept
        self._notices.add(
            f"the cache has room for about {most} of {self._count} samples: the others are decoded again in every "
            f"epoch. Give it more ({'memory_bytes' if self._store.mode == 'memory' else 'disk_bytes'} in "
            "cache_options), or cache smaller images."
        )


def _room(store: cache.Store, entry_bytes: int, note_bytes: int) -> tuple[float | None, float]:
    """Bytes that a store has for entries (None where there is no bound), and what a sample costs of them."""
    if store.options.read_only or store.mode == "none":
        return None, 1
    if isinstance(store, MemoryStore):
        return store.budget, entry_bytes + 256 + (note_bytes + 256 if note_bytes else 0)
    budget = store.options.disk_bytes
    if budget is None:
        return None, 1
    if store.mode in ("pinned", "memory"):  # whole segments, the last of which may be another process's, half empty
        slots = capacity(entry_bytes, 99, budget // 16)
        segment = DATA + slots * entry_bytes
        beside = budget // 16 if note_bytes else 0
        return max(0, (budget - beside) // segment - 1) * segment, segment / slots
    cost = charge(entry_bytes + _BESIDE[store.mode]) + (4096 if note_bytes else 0)
    return budget * 15 / 16, cost
