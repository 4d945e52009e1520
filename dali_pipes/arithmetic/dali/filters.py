"""DALI's resampling filters: small float32 tables, stretched to the support that a resize needs.

A filter is a table `t[0..n-1]`, an `anchor` (where the filter's centre lies, in source pixels from its first tap) and
a `scale` (table entries per source pixel). Its value between entries is linear, and zero outside `(-1, n)`.

| kind       | entries | over    | value                                | support, `r` the radius                     |
|------------|---------|---------|--------------------------------------|---------------------------------------------|
| linear     | 3       | [-1, 1] | 0, 1, 0                              | 2                                           |
| triangular | 3       | [-1, 1] | 0, 1, 0                              | max(1, 2 r)                                 |
| cubic      | 129     | [-2, 2] | Catmull-Rom (a = -1/2)               | 2 max(2, r)                                 |
| lanczos3   | 193     | [-3, 3] | sinc(x) sinc(x/3), glibc's sinf      | 2 max(3, r)                                 |
| gaussian   | 65      | [-2, 2] | exp(-x^2), in float64, rounded once  | max(1, 4 sqrt(2) s), s = r / 2 / sqrt(2)    |

The radius is 1, 1, 2, 3, 1, times in/out when the image shrinks and antialiasing is on (never for `linear`).
All arithmetic is float32 with each operation rounded, except where said.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dali_pipes.arithmetic.dali.float32 import libm
from dali_pipes.errors import ConfigError

f32 = np.float32
Float32Array = NDArray[np.float32]
Interpolation = Literal["nn", "linear", "triangular", "cubic", "lanczos3", "gaussian"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nn", "linear", "triangular", "cubic", "lanczos3", "gaussian")

MAX_SUPPORT = 8192


@dataclass(frozen=True)
class Filter:
    """One filter at one width; callable parts are pure functions of float32 positions.

    anchor: source pixels from the first tap to the centre. scale: table entries per source pixel.
    """

    kind: Interpolation
    anchor: np.float32
    scale: np.float32

    def widened(self, support: np.float32) -> "Filter":
        """Return the same table over `support` source pixels."""
        scale = f32(f32(len(table(self.kind)) - 1) / f32(support))
        return Filter(self.kind, f32(f32(self.anchor * self.scale) / scale), scale)

    @property
    def support(self) -> int:
        """How many taps an output pixel has."""
        if self.kind == "nn":
            return 1
        return math.ceil(float(f32(f32(len(table(self.kind)) - 1) / self.scale)))

    def neighbours(self, x: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return the two table entries around each position (in entries), and the fraction between.

        Entries outside of the table are 0.
        """
        entries = table(self.kind)
        n = len(entries)
        floor = np.floor(x)
        inside = (x > -1) & (x < n)
        i = floor.astype(np.int64)
        left = np.where(inside & (i >= 0), entries[np.clip(i, 0, n - 1)], f32(0))
        right = np.where(inside & (i + 1 < n), entries[np.clip(i + 1, 0, n - 1)], f32(0))
        return left, right, x - floor


def make_filter(kind: Interpolation, antialias: bool, in_size: np.float32, out_size: int) -> Filter:
    """Return the filter that DALI picks for one axis.

    in_size: source pixels covered, may be fractional. out_size: output pixels.
    """
    if kind not in INTERPOLATIONS:
        raise ConfigError(f"interp_type is {kind!r}; allowed are {', '.join(INTERPOLATIONS)}")
    if kind == "nn":
        return Filter(kind, f32(0), f32(1))
    shrinks = antialias and in_size > out_size
    narrow = {"linear": f32(1), "triangular": f32(1), "gaussian": f32(1), "cubic": f32(2), "lanczos3": f32(3)}[kind]
    radius = f32(f32(narrow * in_size) / f32(out_size)) if shrinks else narrow
    base = {
        "linear": Filter(kind, f32(1), f32(1)),
        "triangular": Filter(kind, f32(1), f32(1)),
        "gaussian": Filter(kind, f32(1), f32(32)),
        "cubic": Filter(kind, f32(2), f32(32)),
        "lanczos3": Filter(kind, f32(3), f32(32)),
    }[kind]
    if kind == "linear":
        return base.widened(f32(2))
    if kind == "triangular":
        return base.widened(max(f32(1), f32(f32(2) * radius)))
    if kind == "gaussian":
        sigma = f32(float(f32(radius * f32(0.5))) / math.sqrt(2.0))
        return base.widened(max(f32(1), f32(f32(4.0 * math.sqrt(2.0)) * sigma)))
    return base.widened(f32(f32(2) * max(narrow, radius)))


@functools.cache
def table(kind: Interpolation) -> Float32Array:
    """Return the filter's table, float32, read-only."""
    makers = {
        "linear": _triangle,
        "triangular": _triangle,
        "cubic": _cubic,
        "lanczos3": _lanczos3,
        "gaussian": _gaussian,
    }
    entries = makers[kind]()
    entries.flags.writeable = False
    return entries


def _triangle() -> Float32Array:
    return np.array([0, 1, 0], f32)


def _gaussian() -> Float32Array:
    x = f32(4) * (np.arange(65, dtype=f32) - f32(32)) / f32(64)
    entries: Float32Array = np.exp(-(x * x).astype(np.float64)).astype(f32)
    return entries


def _cubic() -> Float32Array:
    x = np.abs(f32(4) * (np.arange(129, dtype=f32) - f32(64)) / f32(128))
    square = x * x
    cube = square * x
    near = f32(1.5) * cube - f32(2.5) * square + f32(1)
    far = f32(-0.5) * cube + f32(2.5) * square - f32(4) * x + f32(2)
    entries: Float32Array = np.where(x >= 2, f32(0), np.where(x > 1, far, near)).astype(f32)
    return entries


def _lanczos3() -> Float32Array:
    positions = f32(6) * (np.arange(193, dtype=f32) - f32(96)) / f32(192)
    entries: Float32Array = np.array(
        [f32(0) if abs(x) >= 3 else f32(_sinc(x) * _sinc(f32(x / f32(3)))) for x in positions], f32
    )
    return entries


def _sinc(x: np.float32) -> np.float32:
    # pi is a double in DALI's source: the product is rounded to float32 once.
    angle = f32(float(x) * math.pi)
    if abs(angle) < f32(1e-5):
        value: np.float32 = f32(f32(1) - f32(f32(angle * angle) * f32(1.0 / 6.0)))
    else:
        value = f32(f32(libm().sinf(float(angle))) / angle)
    return value
