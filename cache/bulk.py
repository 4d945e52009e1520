"""Many entries at once: arrays of one shape gathered into one, and the rows of one array put under many keys.

A store that can do better than one entry after the other has ``get_rows`` and ``put_rows`` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .key import Key

Array = np.ndarray[Any, Any]


class Rows(NamedTuple):
    """Entries of one dtype and shape.

    ``at``: int64[n], which of the keys asked for, ascending; ``array``: [n, ...], memory of its own.
    """

    at: np.ndarray[Any, np.dtype[np.int64]]
    array: Array


def get_rows(store: Any, digests: Sequence[bytes]) -> list[Rows]:
    """The entries of keys (their 16-byte digests), by dtype and shape; those that are in none of them are missing."""
    own = getattr(store, "get_rows", None)
    if own is not None:
        found: list[Rows] = own(digests)
        return found
    return gathered((at, store.get(Key(digest))) for at, digest in enumerate(digests))


def gathered(entries: Any) -> list[Rows]:
    """Rows of (position, array or None)."""
    kinds: dict[tuple[str, tuple[int, ...]], tuple[list[int], list[Array]]] = {}
    for at, array in entries:
        if array is not None:
            positions, arrays = kinds.setdefault((array.dtype.str, array.shape), ([], []))
            positions.append(at)
            arrays.append(array)
    return [Rows(np.array(positions, np.int64), np.stack(arrays)) for positions, arrays in kinds.values()]


def put_rows(store: Any, digests: Sequence[bytes], rows: Array) -> None:
    """Puts ``rows[i]`` under the i-th key."""
    own = getattr(store, "put_rows", None)
    if own is not None:
        own(digests, rows)
        return
    for digest, row in zip(digests, rows):
        store.put(Key(digest), np.asarray(row))
