"""Resampling weights: built on the host in float64, quantised once to integers, then only integers move pixels.

One axis of `n` samples becomes `o` (PyTorch's `antialias=True`, `align_corners=False`, which took it from Pillow):

    scale   = n / o                       support = r * max(scale, 1)        r = 1 (bilinear), 2 (bicubic)
    centre  = scale * (i + 0.5)           for output i
    low     = max(trunc(centre - support + 0.5), 0)       high = min(trunc(centre + support + 0.5), n)
    w[j]    = f((j - centre + 0.5) / max(scale, 1))       for low <= j < high, divided by their sum, added in order of j

    bilinear  f(x) = 1 - |x| within 1, else 0
    bicubic   f(x) = ((a+2)|x| - (a+3)) x**2 + 1 within 1,  a (((|x|-5)|x| + 8)|x| - 4) within 2, else 0;  a = -0.5
              (PyTorch takes -0.75 without antialias, and -0.5 with it)

**uint8** (`depth=8`): PyTorch's own quantisation. The precision p is the largest p <= 22 for which the largest weight
of the whole axis, rounded to 2**-p, stays below 2**15. Weights are `trunc(w * 2**p +- 0.5)`, half away from zero; they
fit int16. int32 holds every sum: at most 255 * 2**22 * 1.5 < 2**31.

For o > n, p is always 14, so a part of a huge enlargement needs nothing of the rest: output 0 has its nearest sample,
of weight 1 (bilinear) or 0.5625 to 1 (bicubic), and beyond it at most a second one of weight 0 to -1/16; divided by
their sum, the first lies between 1 and 1.125. No other output has a larger one.

**uint16** (`depth=16`): our own. Weights are differences of the rounded running sum, `floor(cumsum(w) * 2**p + 0.5)`.
So each output's weights sum to exactly 2**p (flat areas keep their value), and by Abel's summation quantising moves a
result by at most 2**-(p+1) times the total variation of its samples.

    bilinear, p = 15: no weight is negative, so every partial sum is at most 65535 * 2**15 + 2**14 = 2147467264,
    below 2**31.

    bicubic, p = 14: if the positive weights of an output sum to P, the negative ones sum to 2**14 - P, and every
    partial sum lies within 65535 * P + 2**13 in size. That is below 2**31 for P <= 32767, twice unity gain. The
    cubic's largest gain is below 1.33 (tested); the builder checks each table all the same.

A pass is then `clamp((2**(p-1) + sum(w[k] * x[start + k])) >> p)`, with an arithmetic shift, in int32 (see `integer`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError

Interpolation = Literal["bilinear", "bicubic"]

_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}
_Floats = npt.NDArray[np.float64]
_Longs = npt.NDArray[np.int64]
_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Table:
    """Weights of one axis: output `i` is made of samples `start[i] ... start[i] + K - 1`, all of them inside the axis.

    start: int32[o], read-only. weights: int32[o, K], read-only, in units of `2**-precision`, zero where the filter does
    not reach.
    """

    start: _Ints
    weights: _Ints
    precision: int

    @property
    def taps(self) -> int:
        """K, the number of samples that every output reads."""
        return int(self.weights.shape[1])

    def covers(self) -> tuple[int, int]:
        """Return the first sample that is read, and one past the last."""
        return int(self.start.min()), int(self.start.max()) + self.taps


def check_interpolation(interpolation: str) -> None:
    """Raise ConfigError unless `interpolation` is one that the tables know."""
    if interpolation not in _RADIUS:
        raise ConfigError(f"interpolation is {interpolation!r}; allowed: {', '.join(get_args(Interpolation))}")


@lru_cache(maxsize=1024)
def table(n: int, o: int, interpolation: Interpolation, depth: int, first: int = 0, count: int | None = None) -> Table:
    """Return weights that bring `n` samples to `o`, for outputs `first ... first + count - 1`.

    These are all outputs from `first` on when `count` is None.

    n, o: at least 1. depth: 8 or 16 bits per sample. For `n == o` it is the identity, because both passes are skipped
    then. The last 1024 tables are kept; one takes about `4 * count * (K + 1)` bytes. Safe to call from many threads.
    """
    check_interpolation(interpolation)
    if n < 1 or o < 1 or depth not in (8, 16):
        raise ConfigError(
            f"no table from {n} to {o} samples of {depth} bits; sizes are at least 1 and depth is 8 or 16"
        )
    last = o if count is None else first + count
    if not 0 <= first < last <= o:
        raise ConfigError(f"outputs {first} to {last} are not a part of {o}")
    if n == o:
        return _frozen(np.arange(first, last), np.full((last - first, 1), 1 << 14), 14)
    if depth == 16:
        return _table16(*_weights(n, o, interpolation, first, last), 15 if interpolation == "bilinear" else 14)
    if o > n:
        return _table8(*_weights(n, o, interpolation, first, last), 14)
    start, weights = _weights(n, o, interpolation, 0, o)
    return _table8(start[first:last], weights[first:last], _precision(float(weights.max())))


def _weights(n: int, o: int, interpolation: Interpolation, first: int, last: int) -> tuple[_Longs, _Floats]:
    """Return normalised float64 weights [last - first, K] and the first sample of each row.

    That sample is shifted so that K samples always lie inside.
    """
    scale = n / o
    stretch = max(scale, 1.0)
    support = _RADIUS[interpolation] * stretch
    centre = scale * (np.arange(first, last) + 0.5)
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), n)
    taps = int((high - low).max())
    start = np.minimum(low, n - taps)
    j = start[:, None] + np.arange(taps)
    weights = _filter((j - centre[:, None] + 0.5) * (1.0 / stretch), interpolation)
    weights[(j < low[:, None]) | (j >= high[:, None])] = 0.0
    # cumsum adds strictly in order; numpy's sum would pair terms up and round differently from PyTorch.
    total = np.cumsum(weights, axis=1)[:, -1:]
    np.divide(weights, total, out=weights, where=total != 0.0)
    return start, weights


def _filter(x: _Floats, interpolation: Interpolation) -> _Floats:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _precision(largest: float) -> int:
    """PyTorch's choice: stop before the largest weight would need more than 15 bits."""
    return next((p for p in range(22) if int(0.5 + largest * (1 << (p + 1))) >= 1 << 15), 22)


def _table8(start: _Longs, weights: _Floats, precision: int) -> Table:
    return _frozen(start, np.trunc(weights * (1 << precision) + np.copysign(0.5, weights)), precision)


def _table16(start: _Longs, weights: _Floats, precision: int) -> Table:
    running = np.floor(np.cumsum(weights, axis=1) * (1 << precision) + 0.5)
    quantised = np.diff(running, axis=1, prepend=0.0)
    if precision == 14 and np.maximum(quantised, 0).sum(axis=1).max() > 32767:
        raise ConfigError("bicubic weights of a 16-bit axis would overflow 32 bits; use bilinear for this size")
    return _frozen(start, quantised, precision)


def _frozen(start: _Longs, weights: _Floats | _Longs, precision: int) -> Table:
    first, values = start.astype(np.int32), np.ascontiguousarray(weights, dtype=np.int32)
    first.setflags(write=False)
    values.setflags(write=False)
    return Table(first, values, precision)
