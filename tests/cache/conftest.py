"""Stores of every mode, and values that are functions of their keys."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes import cache
from dali_pipes.cache import FileState, Key, PartsLedger, SourceIndex, Store, open_store

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where tests make folders by the thousand; None: where temporary files are."""

OLD = 1_700_000_000_123_456_789
"""A time of files that nobody has touched lately, in nanoseconds."""

# Every mode in every way it can be opened: (name, mode, arguments).
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("memory", {}),
    "memory-shared": ("memory", {"shared": True}),
    "disk": ("disk", {}),
    "npy": ("npy", {}),
    "npy-always": ("npy", {"verify": "always"}),
    "npy-never": ("npy", {"verify": "never"}),
    "npy-keyed": ("npy", {"secret": b"k" * 32}),
    "npy-budget": ("npy", {"disk_bytes": 1 << 30}),
    "tensor-disk": ("tensor-disk", {}),
    "tensor-memmap": ("tensor-memmap", {}),
    "tensor-memmap-budget": ("tensor-memmap", {"disk_bytes": 1 << 30, "secret": b"k" * 32}),
    "tiered": ("tiered", {}),
    "tiered-pinned": ("tiered", {"over": "pinned", "memory_bytes": 5000}),
    "pinned": ("pinned", {}),
    "pinned-always": ("pinned", {"verify": "always"}),
    "pinned-never": ("pinned", {"verify": "never"}),
    "pinned-keyed": ("pinned", {"secret": b"k" * 32}),
    "pinned-budget": ("pinned", {"disk_bytes": 1 << 30}),
}


@functools.lru_cache(1000)
def value(number: int, shape: tuple[int, ...] = (3, 8, 9), dtype: str = "uint8") -> np.ndarray[Any, Any]:
    """An array that is a function of its arguments. Read-only."""
    rng = np.random.default_rng(number)
    array = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)[..., 0]
    array.flags.writeable = False
    return array


@functools.lru_cache(10_000)
def key(number: int) -> Key:
    """The key of ``value(number)``."""
    return Key.of(number=number)


def of(number: int) -> np.ndarray[Any, Any]:
    """``value(number)``; every third is of another shape."""
    return value(number, (5, 7) if number % 3 == 0 else (3, 8, 9))


def note(directory: Path, secret: bytes, numbers: range) -> None:
    """Give a cache a source record and a note of each number, signed with a secret."""
    index, ledger = SourceIndex(directory, secret=secret), PartsLedger(directory, secret=secret)
    for number in numbers:
        index.record(f"{number}", FileState(number, OLD, OLD, 7), bytes([number]) * 16)
        ledger.note(key(number), {"source": number, "size": 1})
    index.close()
    ledger.close()


@pytest.fixture
def opened(tmp_path: Any) -> Iterator[Callable[..., Store]]:
    """Opens stores below a temporary folder, and closes them."""
    stores: list[Store] = []

    def open_one(way: str, name: str = "cache", **more: Any) -> Store:
        mode, arguments = WAYS[way]
        directory = None if mode in ("none", "memory") else tmp_path / name
        store = open_store(mode, directory, **{"strict": True, **arguments, **more})
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()


def coherent() -> list[str]:
    """The persistent ways whose instances see each other's replacements and deletions."""
    return [way for way in persistent() if WAYS[way][0] != "tiered"]


def persistent(ways: dict[str, tuple[str, dict[str, Any]]] = WAYS) -> list[str]:
    """The ways whose entries outlive the instance."""
    return [way for way, (mode, _) in ways.items() if mode in cache.PERSISTENT_MODES]
