"""The k-th smallest code of a large image, exactly, without counting every code.

A few rows tell about where it lies. Then one pass counts, exactly, how many codes are at or below each of a few
thresholds around it: comparing and counting in cache-sized pieces runs at the speed of memory, three times as fast as a
histogram. If the threshold that was looked for is not among them the bracket is narrower by then, and another pass
follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8] | NDArray[np.uint16]
_PIECE = 1 << 16
_PASSES = 4
WORTH_IT = 1 << 20  # pixels; below this a histogram is faster


def order_statistics(codes: Codes, ranks: Sequence[int], size: int) -> dict[int, int] | None:
    """{rank: code} for ranks 0..codes.size-1 in ascending order of codes, all below `size`; None where the search is
    not worth going on.
    """
    flat = codes.reshape(-1)
    below = {-1: 0, size - 1: flat.size}  # threshold: how many codes are at or below it
    wanted = {t for guess in _guess(codes, ranks, size).values() for t in (guess - 1, guess, guess + 1)}
    for _ in range(_PASSES):
        new = sorted(t for t in wanted - below.keys() if 0 <= t < size)
        below.update(zip(new, _count(flat, new)))
        found = {rank: _bracket(rank, below) for rank in ranks}
        if all(high - low == 1 for low, high in found.values()):
            return {rank: high for rank, (low, high) in found.items()}
        wanted = {t for low, high in found.values() for t in _thresholds(low, high, size)}
    return None


def _guess(codes: Codes, ranks: Sequence[int], size: int) -> dict[int, int]:
    step = max(1, codes.shape[0] // 128)
    sample = np.cumsum(np.bincount(codes[step // 2 :: step].reshape(-1), minlength=size))
    share = int(sample[-1]) / codes.size
    return {
        rank: int(np.searchsorted(sample, min(int(rank * share), int(sample[-1]) - 1), side="right")) for rank in ranks
    }


def _thresholds(low: int, high: int, size: int) -> list[int]:
    """Up to five thresholds inside a bracket: all, or in growing steps from the end that is known to be near, or even
    ones.
    """
    if high - low <= 6:
        return list(range(low + 1, high))
    steps = (1, 3, 8, 20, 50)
    if high == size - 1:
        return [low + step for step in steps]
    if low == -1:
        return [high - step for step in steps]
    return [low + (high - low) * i // 6 for i in range(1, 6)]


def _bracket(rank: int, below: dict[int, int]) -> tuple[int, int]:
    """The nearest counted thresholds (low, high) with below[low] <= rank < below[high]."""
    return max(t for t, n in below.items() if n <= rank), min(t for t, n in below.items() if n > rank)


def _count(flat: Codes, thresholds: Sequence[int]) -> list[int]:
    totals = [0] * len(thresholds)
    limits = [flat.dtype.type(t) for t in thresholds]
    mask = np.empty(min(_PIECE, flat.size), np.bool_)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        part = mask[: piece.size]
        for i, threshold in enumerate(limits):
            np.less_equal(piece, threshold, out=part)
            totals[i] += int(np.count_nonzero(part))
    return totals
