"""Exact counts and percentiles of coded images (see `coded`), and table look-up, in cache-sized pieces.

`percentiles` follows NumPy's default ("linear") definition to the last bit: for n values sorted as v and q percent,
position p = (n - 1) q / 100 lies between v[floor p] and v[floor p + 1] and is interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dali_pipes.compiled import count_codes, library, look_up_codes

Codes = NDArray[np.uint8] | NDArray[np.uint16]
Entry = TypeVar("Entry", np.uint8, np.uint16)
_PIECE = 1 << 16
WORTH_IT = 1 << 14
"""Codes from which on the compiled look-up pays, which fills a table of the codes' whole type first."""


COUNTED_FROM = 1 << 18
"""Codes from which on the compiled count pays, which needs 2 MiB of tables."""


def counts_of(codes: Codes, size: int) -> NDArray[np.int64]:
    """int64[size]: how often each code 0..size-1 occurs; codes must be below `size`."""
    compiled = library()
    if compiled is not None and codes.flags.c_contiguous and COUNTED_FROM <= codes.size < 2**32:
        counted = count_codes(compiled, codes)
        if counted[size:].any():
            raise ValueError(f"codes of {size} and more are there")
        return counted[:size] if size <= len(counted) else np.pad(counted, (0, size - len(counted)))
    flat = codes.reshape(-1)
    total = np.zeros(size, np.int64)
    for start in range(0, flat.size, _PIECE):
        total += np.bincount(flat[start : start + _PIECE], minlength=size)
    return total


def look_up(table: NDArray[Entry], codes: Codes) -> NDArray[Entry]:
    """table[code], of the codes' shape and the table's dtype; codes must be below the table's length."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    out = np.empty(flat.size, table.dtype)
    compiled = library()
    if compiled is not None and flat.size >= WORTH_IT:
        look_up_codes(compiled, table, flat, out)
        return out.reshape(codes.shape)
    index = np.empty(min(_PIECE, flat.size), np.intp)  # np.take would convert the whole image to 8-byte indices
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        index[: piece.size] = piece
        np.take(table, index[: piece.size], out=out[start : start + piece.size], mode="clip")
    return out.reshape(codes.shape)


def percentiles(values: NDArray[np.float64], counts: NDArray[np.int64], wanted: Sequence[float]) -> list[float]:
    """Return the wanted percentiles (0..100) of a multiset: `values[i]` occurs `counts[i]` times.

    All are 0.0 if it is empty.
    """
    present = np.flatnonzero(counts)
    if not present.size:
        return [0.0 for _ in wanted]
    order = present[np.argsort(values[present], kind="stable")]
    sorted_values, upto = values[order], np.cumsum(counts[order])

    def at(rank: int) -> float:
        return float(sorted_values[np.searchsorted(upto, rank, side="right")])

    return [interpolate(at, int(upto[-1]), q) for q in wanted]


def neighbours(count: int, q: float) -> tuple[int, int]:
    """Return the ranks 0..count-1 between which the q-th percentile of `count` values lies."""
    below = int((count - 1) * (q / 100.0))
    return below, min(below + 1, count - 1)


def interpolate(at: Callable[[int], float], count: int, q: float) -> float:
    """NumPy's linear percentile from order statistics: `at(rank)` for rank 0..count-1."""
    below, above = neighbours(count, q)
    t = (count - 1) * (q / 100.0) - below
    a, b = at(below), at(above)
    return b - (b - a) * (1.0 - t) if t >= 0.5 else a + (b - a) * t  # as numpy.lib's _lerp
