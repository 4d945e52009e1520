"""The k-th smallest code of a large image, exactly, without a histogram of every pixel.

A sample tells about where it lies. Then one pass counts how many codes lie below a bracket around it, and how often
each code inside occurs. Comparing runs at the speed of memory, many times as fast as a histogram. A rank that the
bracket missed is not answered: the caller takes the whole histogram then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.histogram import Codes, neighbours

_PIECE = 1 << 16
_SAMPLE = 1 << 16
_DEVIATIONS = 4  # of a share found by sampling, to either side
_NARROW = 4  # codes; a background of one value lies in such a bracket, and would make the other way slow
WORTH_IT = 1 << 20  # pixels; below this a histogram is faster


@dataclass(frozen=True)
class Bracket:
    """Codes first..last. upper: few pixels lie above it."""

    first: int
    last: int
    upper: bool


def order_statistics(
    codes: Codes, wanted: Sequence[float], size: int, inside: tuple[int, int] | None = None
) -> tuple[int, dict[int, int]] | None:
    """How many codes are counted, and {rank among them: code} for the ranks next to each percentile wanted (0..100).

    All codes are below `size`; those outside of first..last of `inside` are not counted. None where a bracket missed,
    or nothing is counted.
    """
    flat = codes.reshape(-1)
    first, last = inside or (0, size - 1)
    below = _sum(flat, np.less, first) if first else 0
    count = flat.size - below - (_sum(flat, np.greater, last) if last + 1 < size else 0)
    ranks = sorted({rank for q in wanted for rank in neighbours(count, q)}) if count else []
    brackets = _brackets(flat, ranks, count, first, last)
    if not brackets:
        return None
    counted = {b: np.zeros(b.last - b.first + 2, np.int64) for b in brackets.values()}  # those below, and each inside
    highest = {bracket: max(r for r in ranks if brackets[r] == bracket) for bracket in counted}
    mask = np.empty(min(_PIECE, flat.size), np.bool_)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        for bracket, counts in counted.items():  # all of them while the piece is in the processor's cache
            if bracket.last or counts[1] <= highest[bracket]:  # or it is known already: the background is 0
                _count(piece, bracket, counts, mask[: piece.size])
    found = {}
    for rank, bracket in brackets.items():
        upto = np.cumsum(counted[bracket]) - below
        if not upto[0] <= rank < upto[-1]:
            return None
        found[rank] = bracket.first - 1 + int(np.searchsorted(upto, rank, side="right"))
    return count, found


def _sum(flat: Codes, test: np.ufunc, code: int) -> int:
    """How many codes pass the test against `code`."""
    return sum(int(np.count_nonzero(test(flat[at : at + _PIECE], code))) for at in range(0, flat.size, _PIECE))


def _brackets(flat: Codes, ranks: Sequence[int], count: int, first: int, last: int) -> dict[int, Bracket]:
    sample = np.bincount(flat[:: flat.size // _SAMPLE | 1], minlength=last + 1)  # an odd step: it sees every column
    upto = np.cumsum(sample[first : last + 1])
    total = int(upto[-1])
    if not total:
        return {}

    def code_at(share: float) -> int:
        return first + int(np.searchsorted(upto, min(int(share * total), total - 1), side="right"))

    def bracket(share: float) -> Bracket:
        margin = _DEVIATIONS * (math.sqrt(share * (1 - share) / total) + 1 / total)
        return Bracket(
            code_at(share - margin) if share > margin else first,
            code_at(share + margin) if share < 1 - margin else last,
            share > 0.9,
        )

    return {rank: bracket(rank / count) for rank in ranks}


def _count(piece: Codes, bracket: Bracket, counts: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
    """Add to counts[0] how many codes of the piece lie below the bracket, to counts[1:] how often each of it occurs."""
    number, width = piece.dtype.type, bracket.last - bracket.first + 1
    first = number(bracket.first)
    if width <= _NARROW:
        counts[0] += np.count_nonzero(np.less(piece, first, out=mask)) if first else 0
        for i in range(width):
            counts[1 + i] += np.count_nonzero(np.equal(piece, number(bracket.first + i), out=mask))
        return
    if bracket.upper:
        chosen = piece[np.greater_equal(piece, first, out=mask)]
        counts[0] += piece.size - chosen.size
        chosen -= first
    else:
        counts[0] += np.count_nonzero(np.less(piece, first, out=mask)) if first else 0
        chosen = piece - first  # what lies below wraps round, beyond every width
        chosen = chosen[np.less(chosen, width, out=mask)]
    inside = np.bincount(chosen[chosen < width])
    counts[1 : 1 + inside.size] += inside
