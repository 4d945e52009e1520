"""Tables that are a straight line, rounded down: computed by multiplying and adding, faster than NumPy's looking up.

A table T that rises is floor(slope * c + offset) between its ends just if, for every level j that it reaches, the line
is at least j at the first code t[j] with T >= j, and below j one code earlier:

    j - slope * t[j]  <=  offset  <  k - slope * (t[k] - 1)        for all levels j, k

The slope that leaves the offset the most room, and the middle of that room, are tried on every code, in float32 as
images will be: only if each comes out as the table has it is the line used. Windows of images of 10 to 16 bits nearly
always are such lines; sigmoids and look-up tables are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipes.compiled import library
from dali_pipes.decode.histogram import Codes, look_up

Bytes = NDArray[np.uint8]
_PIECE = 1 << 16
_HALVINGS = 16  # of the range of slopes
WORTH_IT = 1 << 18  # pixels; below this finding the line takes longer than it saves


def show(table: Bytes, codes: Codes) -> Bytes:
    """table[code], of the codes' shape; codes must be below the table's length."""
    line = line_of(table) if codes.size >= WORTH_IT and library() is None else None  # the compiled pass is faster still
    return look_up(table, codes) if line is None else line.at(codes)


@dataclass(frozen=True)
class Line:
    """floor(slope * min(max(code, first), last) + offset), in float32."""

    slope: float
    offset: float
    first: int
    last: int

    def at(self, codes: Codes) -> Bytes:
        """Return the line's value for each code."""
        flat = np.ascontiguousarray(codes).reshape(-1)
        out, size = np.empty(flat.size, np.uint8), min(_PIECE, flat.size)
        inside, floats = np.empty(size, flat.dtype), np.empty(size, np.float32)
        first, last = flat.dtype.type(self.first), flat.dtype.type(self.last)
        slope, offset = np.float32(self.slope), np.float32(self.offset)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            clipped, y = inside[: piece.size], floats[: piece.size]
            np.clip(piece, first, last, out=clipped)
            np.copyto(y, clipped)
            np.multiply(y, slope, out=y)
            np.add(y, offset, out=y)
            np.copyto(out[start : start + piece.size], y, casting="unsafe")
        return out.reshape(codes.shape)


def line_of(table: Bytes) -> Line | None:
    """Return the line that gives every entry of uint8[n], n <= 65536, or None."""
    if table[0] > table[-1]:
        line = _rising(table[::-1])
        end = table.size - 1
        line = line and Line(-line.slope, line.offset + line.slope * end, end - line.last, end - line.first)
    else:
        line = _rising(table)
    if line is None:
        return None
    return line if np.array_equal(line.at(np.arange(table.size, dtype=np.uint16)), table) else None


def _rising(table: Bytes) -> Line | None:
    levels = np.arange(int(table[0]) + 1, int(table[-1]) + 1)
    if levels.size < 2 or (table[1:] < table[:-1]).any():
        return None
    at = np.searchsorted(table, levels)  # the first code of each level
    run, low, high = int(at[-1] - at[0]), 0.0, 2.0
    if run > 1:
        low, high = (levels.size - 1) / (run + 1), (levels.size - 1) / (run - 1)
    for _ in range(_HALVINGS):
        slope = (low + high) / 2
        least, most = levels - slope * at, levels - slope * (at - 1)
        tightest, loosest = least.argmax(), most.argmin()
        if at[tightest] >= at[loosest]:  # a steeper line leaves the offset more room
            low = slope
        else:
            high = slope
    offset = (least[tightest] + most[loosest]) / 2
    return Line(slope, float(offset), int(at[0]) - 1, int(at[-1]))
