"""Gaussian blur and sharpness, in integers.

**Blur.** With standard deviation s the radius is `r = min(ceil(3 s), 15)` and the weights `w_0 ... w_r` are

    g_k = exp(-k**2 / (2 s**2))        w_k = floor(2**15 g_k / (g_0 + 2 (g_1 + ... + g_r)) + 0.5) for k > 0
    w_0 = 2**15 - 2 (w_1 + ... + w_r)

built on the host, once. Two passes, **horizontal first**, each with its result stored in the input's type:

    y[i] = (2**14 + w_0 x[i] + sum over k of w_k (x[i - k] + x[i + k])) >> 15

where a pixel beyond an edge is the one at the edge. The weights add up to `2**15`, so flat areas keep their value and
no result leaves the range of its neighbours; 32 unsigned bits hold every sum: `65535 2**15 + 2**14 < 2**31`.

**Sharpness.** Away from the edges, with the factor f, `G = rint((f - 1) 2**16 / 13)` and the weighted neighbourhood
`S = 4 x + (the sum of the 3 x 3 pixels around and including x)`, whose weights add up to 13,

    y = clamp(x + ((G (13 x - S) + 2**15) >> 16),  0, full scale)

which is Pillow's `ImageEnhance.Sharpness`, rounded once: a blend of the picture with its smoothed self. Pixels at the
edges stay as they are. For f up to 10 and 16 bits `|G (13 x - S)| < 2**36`; bytes fit 32 bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.elementary import exp

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

RADIUS = 15
"""Largest radius, pixels."""


def blur_weights(deviation: Doubles) -> Longs:
    """Return weights int64[N, RADIUS + 1] for standard deviations float64[N] in pixels; for 0 those of no blur."""
    k = np.arange(RADIUS + 1, dtype=np.float64)
    blurs = deviation > 0.01  # a smaller one reaches no neighbour
    safe = np.where(blurs, deviation, 1.0)[:, None]
    g = exp(np.maximum(-(k * k) / (2.0 * safe * safe), -700.0))
    g[k > np.ceil(3.0 * safe)] = 0.0
    g[~blurs, 1:] = 0.0
    total = 2.0 * np.cumsum(g[:, ::-1], axis=1)[:, -2] + g[:, 0]
    weights = np.floor((1 << 15) * g / total[:, None] + 0.5).astype(np.int64)
    weights[:, 0] = (1 << 15) - 2 * weights[:, 1:].sum(axis=1)
    return weights


def gain(factor: Doubles) -> Longs:
    """Return G for sharpness factors float64[N], int64[N]."""
    return np.rint((factor - 1.0) * 65536.0 / 13.0).astype(np.int64)


def blur(image: Pixels, weights: Longs) -> Pixels:
    """Return a blurred picture of the same type and shape, uint8 or uint16 [C, H, W]; weights: int64[RADIUS + 1]."""
    return _pass(_pass(image, weights, 2), weights, 1)


def _pass(image: Pixels, weights: Longs, axis: int) -> Pixels:
    radius = int(np.flatnonzero(weights).max())
    if not radius:
        return image
    length = image.shape[axis]
    edges = [(0, 0)] * 3
    edges[axis] = (radius, radius)
    x = np.pad(image, edges, mode="edge").astype(np.uint32)

    def moved(by: int) -> Pixels:
        return x[(slice(None),) * axis + (slice(radius + by, radius + by + length),)]

    total = moved(0) * np.uint32(weights[0])
    total += np.uint32(1 << 14)
    term = np.empty_like(total)
    for k in range(1, radius + 1):
        np.add(moved(-k), moved(k), out=term)
        np.multiply(term, np.uint32(weights[k]), out=term)
        np.add(total, term, out=total)
    np.right_shift(total, 15, out=total)
    return total.astype(image.dtype)


def sharpen(image: Pixels, by: int) -> Pixels:
    """Return a sharpened, or smoothed, picture of the same type and shape, uint8 or uint16 [C, H, W]. by: G."""
    out = np.array(image, order="C")
    if min(image.shape[1:]) < 3:
        return out
    wide: Any = np.int32 if image.dtype == np.uint8 else np.int64
    x = image.astype(wide)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    middle = x[:, 1:-1, 1:-1]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    np.subtract(9 * middle, total, out=total)  # 13 x - S
    np.multiply(total, wide(by), out=total)
    np.add(total, wide(1 << 15), out=total)
    np.right_shift(total, 16, out=total)
    np.add(total, middle, out=total)
    np.clip(total, 0, np.iinfo(image.dtype).max, out=total)
    out[:, 1:-1, 1:-1] = total
    return out
