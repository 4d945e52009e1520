"""Which epoch a map-style data set is in, where nobody tells it: every iteration of a `DataLoader` is the next one.

A data set is not told when an iteration begins. But a `DataLoader` makes a fetcher for each iteration, in each of its
workers too, and every request for items comes from one; so a fetcher that was not seen before is a new iteration. Its
workers agree on the epoch without a lock: they name the iteration alike (by the seed that they got, the number of their
first process, and how many iterations they have lived through), and whoever comes first writes name and epoch as one
word into shared memory; others that come at the same moment write the same word.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import weakref
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from dali_pipes.draws import random_bits
from dali_pipes.errors import ConfigError

_LAST, _SLOTS = 0, 8
"""Words in shared memory: the iteration that began last, and some that began before, by their names."""

_DEPTH = 32
"""Calls between the fetcher and us, at most: subsets and other wrappers lie between."""


class EpochClock:
    """Counts the iterations of one data set, over all processes that share it."""

    def __init__(self) -> None:
        self._words = torch.zeros(_SLOTS, dtype=torch.int64).share_memory_()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._begun = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_words": self._words}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._words = state["_words"]
        self._begin()

    def set(self, epoch: int) -> None:
        """Choose the epoch of the items to come, and so of the next iteration.

        Raises:
            ConfigError: it is outside of 0 to 2^31 - 1.
        """
        if not 0 <= epoch < 2**31:
            raise ConfigError(f"set_epoch({epoch}): give a number from 0 to {2**31 - 1}.")
        self._words[_LAST] = epoch  # of no iteration yet: the next one takes it

    def now(self) -> int:
        """Return the epoch of the items that are asked for in this moment.

        Outside of a `DataLoader` it is the one that was set, or that of the last iteration.
        """
        if self._process != os.getpid():
            self._begin()
        name, epoch = _parts(int(self._words[_LAST]))
        fetcher = _asking()
        if fetcher is None:
            return epoch
        if name != 0 and fetcher in self._seen:
            return self._seen[fetcher]
        if fetcher not in self._seen:
            self._begun += 1
        mine = self._name()
        known = _parts(int(self._words[_slot(mine)]))
        if name != 0:
            epoch = known[1] if known[0] == mine else epoch + 1
        if name == 0 or known[0] != mine:
            self._words[_slot(mine)] = self._words[_LAST] = mine << 32 | epoch
        self._seen[fetcher] = epoch
        return epoch

    def _name(self) -> int:
        """Of the iteration that began last in this process: 1 to 2^31 - 1, alike in all workers of a DataLoader."""
        worker = get_worker_info()
        if worker is None:
            whose = f"{os.getpid()} {id(self)}"
        else:
            number = multiprocessing.current_process().name.rpartition("-")[2]
            first = int(number) - worker.id if number.isdigit() else 0
            whose = f"{worker.seed - worker.id} {first}"
        bits = random_bits(0, self._begun, f"iteration {whose}", np.zeros(1, np.int64))
        return int(bits[0] >> np.uint64(33)) or 1


def _parts(word: int) -> tuple[int, int]:
    return word >> 32, word & 0xFFFFFFFF


def _slot(name: int) -> int:
    return 1 + name % (_SLOTS - 1)


def _asking() -> Any:
    """Return the fetcher of a DataLoader that the calling thread works for, or None."""
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame.f_code is _MapDatasetFetcher.fetch.__code__:
            return frame.f_locals["self"]
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
