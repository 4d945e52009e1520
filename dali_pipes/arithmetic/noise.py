"""Gaussian noise, in integers, from counters: no generator, and any order of pixels.

Pixel `(c, y, x)` of a picture of H x W pixels has the number `i = (c H + y) W + x`, and with a sample's 64-bit origin o
(drawn on the host) and the finaliser of SplitMix64, as in `draws.numbers`,

    z = splitmix64(o + (i + 1) 0x9E3779B97F4A7C15)
    n = the sum of the eight bytes of z, less 1020
    y = clamp(x + ((A n + 2**15) >> 16),  0, full scale)             A = rint(s F 2**16 / sqrt(43690))

n has mean 0 and variance `8 (256**2 - 1) / 12 = 43690`, is symmetric, within 1020 in size (4.9 standard deviations),
and nearly normal as a sum of eight. `|A n| < 2**53` for s up to 1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_EVEN = np.uint64(0x00FF00FF00FF00FF)
_SUM = np.uint64(0x0001000100010001)
_BLOCK = 32768


def amplitudes(deviation: Doubles, full_scale: int) -> Longs:
    """Return A for standard deviations as parts of full scale, float64[N]; int64[N]."""
    found: Longs = np.rint(deviation * (full_scale * 65536.0 / 209.0215299915298)).astype(np.int64)
    return found


def add_noise(image: Pixels, origin: int, amplitude: int) -> Pixels:
    """Return a noisy picture of the same type and shape, uint8 or uint16 [C, H, W]. origin: o, unsigned."""
    full_scale = int(np.iinfo(image.dtype).max)
    out = np.array(image, order="C")
    flat = out.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        part = flat[start : start + _BLOCK]
        moved = _numbers(origin, start, len(part)) * np.int64(amplitude)
        moved += 1 << 15
        moved >>= 16
        moved += part
        np.clip(moved, 0, full_scale, out=moved)
        np.copyto(part, moved, casting="unsafe")
    return out


def _numbers(origin: int, start: int, count: int) -> Longs:
    """Return `n` of pixels `start ... start + count - 1`."""
    z = np.arange(start + 1, start + 1 + count, dtype=np.uint64)
    z *= _GOLDEN
    z += np.uint64(origin)
    z ^= z >> np.uint64(30)
    z *= _MIX_1
    z ^= z >> np.uint64(27)
    z *= _MIX_2
    z ^= z >> np.uint64(31)
    z = (z & _EVEN) + ((z >> np.uint64(8)) & _EVEN)  # four sums of two bytes, 16 bits apart
    z *= _SUM
    z >>= np.uint64(48)
    return z.view(np.int64) - 1020
