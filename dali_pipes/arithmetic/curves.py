"""What depends on a value alone: autocontrast, then gamma, solarize and posterize in one table.

With F the full scale (255, 65535) and the smallest and largest value l < h of a channel of the picture,

    autocontrast   x -> (2 F (x - l) + (h - l)) // (2 (h - l))       a channel of one value stays
    gamma          x -> floor(F (x / F)**e + 0.5)                     0 stays 0
    solarize       x -> F - x where x >= t
    posterize      x without its lower bits: k of 8, or 8 + k of 16

Autocontrast is integer, and exact in 64 bits. The table is built on the host, in float64, by `elementary` (the same
bits on every platform) and rounded once, in that order; on a device it is a gather.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.elementary import exp, log

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


def exponents(gamma: float, drawn: Doubles) -> Doubles:
    """Return exponents between 1 / (1 + gamma) and 1 + gamma, for places from -1 to 1, float64[N]; 1.0 at 0."""
    return exp(drawn * log(np.array([1.0 + gamma]))[0])


def thresholds(parts: Doubles, full_scale: int) -> Longs:
    """Return the smallest value that is inverted, for parts of the range from the top, float64[N]; F + 1 for none."""
    found: Longs = (full_scale + 1) - np.rint(parts * (full_scale + 1)).astype(np.int64)
    return found


def curve(exponent: float, threshold: int, lost: int, dtype: npt.DTypeLike) -> Pixels:
    """Return the table of one sample, uint8[256] or uint16[65536]."""
    full_scale = int(np.iinfo(dtype).max)
    table = np.arange(full_scale + 1, dtype=np.int64)
    if exponent != 1.0:
        table[1:] = np.floor(exp(exponent * _logarithms(full_scale)) * full_scale + 0.5)
    if threshold <= full_scale:
        table = np.where(table >= threshold, full_scale - table, table)
    if lost:
        table &= -1 << (lost if full_scale == 255 else 8 + lost)
    return table.astype(dtype)


@lru_cache(maxsize=2)
def _logarithms(full_scale: int) -> Doubles:
    """Logarithms of 1 / F ... F / F."""
    return log(np.arange(1, full_scale + 1) / full_scale)


def look_up(image: Pixels, table: Pixels) -> Pixels:
    """Return the table's values for a picture, [C, H, W] of the table's type."""
    return np.take(table, image, mode="clip")  # every index is inside; this is NumPy's fast mode


def autocontrast(image: Pixels) -> Pixels:
    """Return a picture whose channels reach over the whole range, uint8 or uint16 [C, H, W] of the same type."""
    full_scale = int(np.iinfo(image.dtype).max)
    out = np.empty(image.shape, image.dtype)
    values = np.arange(full_scale + 1, dtype=np.int64)
    for plane, goal in zip(image, out):
        low, high = int(plane.min()), int(plane.max())
        if low == high:
            goal[...] = plane
            continue
        table = (2 * full_scale * (values[low : high + 1] - low) + (high - low)) // (2 * (high - low))
        goal[...] = np.take(table.astype(image.dtype), plane - image.dtype.type(low), mode="clip")
    return out
