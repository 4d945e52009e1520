"""The k-th smallest code of a large image, exactly, without counting every code.

Every so many rows tell about where it lies. Then one pass counts how many codes lie below a bracket around it, and
takes a histogram of the few that lie inside. Comparing runs at the speed of memory, several times as fast as a
histogram of all. A rank that the bracket missed is not answered: the caller takes the whole histogram then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8] | NDArray[np.uint16]
Bracket = tuple[int, int]
"""First and last code inside."""

_PIECE = 1 << 16
_ROWS = 128  # of the sample
_MARGIN = 0.01  # of the pixels, to either side: neighbours are alike, so a sample of rows errs more than one of pixels
WORTH_IT = 1 << 20  # pixels; below this a histogram is faster


def order_statistics(codes: Codes, ranks: Sequence[int], size: int) -> dict[int, int] | None:
    """{rank: code} for ranks 0..codes.size-1 in ascending order of codes, all below `size`; None where a bracket
    missed.
    """
    brackets = _brackets(codes, ranks, size)
    counted = {bracket: _count(codes.reshape(-1), bracket) for bracket in set(brackets.values())}
    found: dict[int, int] = {}
    for rank, bracket in brackets.items():
        below, upto = counted[bracket]
        if not below <= rank < below + int(upto[-1]):
            return None
        found[rank] = bracket[0] + int(np.searchsorted(upto, rank - below, side="right"))
    return found


def _brackets(codes: Codes, ranks: Sequence[int], size: int) -> dict[int, Bracket]:
    step = max(1, codes.shape[0] // _ROWS)
    sample = np.cumsum(np.bincount(codes[step // 2 :: step].reshape(-1), minlength=size))
    total = int(sample[-1])

    def code_at(share: float) -> int:
        return int(np.searchsorted(sample, min(max(int(share * total), 0), total - 1), side="right"))

    def bracket(share: float) -> Bracket:
        return (
            code_at(share - _MARGIN) if share > _MARGIN else 0,
            code_at(share + _MARGIN) if share < 1 - _MARGIN else size - 1,
        )

    return {rank: bracket(rank / codes.size) for rank in ranks}


def _count(flat: Codes, bracket: Bracket) -> tuple[int, NDArray[np.int64]]:
    """How many codes lie below the bracket, and int64[last - first + 1]: how many inside are at or below each code."""
    first, last = bracket
    width = last - first + 1
    inside = np.zeros(width, np.int64)
    below = 0
    shifted = np.empty(min(_PIECE, flat.size), flat.dtype)
    mask = np.empty(shifted.size, np.bool_)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        part, chosen = shifted[: piece.size], mask[: piece.size]
        if first:
            below += int(np.count_nonzero(np.less(piece, flat.dtype.type(first), out=chosen)))
        np.subtract(piece, flat.dtype.type(first), out=part)  # what lies below wraps round, beyond every width
        np.less_equal(part, flat.dtype.type(width - 1), out=chosen)
        inside += np.bincount(part[chosen], minlength=width)
    return below, np.cumsum(inside)
