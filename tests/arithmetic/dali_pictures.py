"""Pictures and sizes that make DALI's rules show: ties, overshoot, negative zeros, single rows, odd widths."""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.generic]
Random = np.random.Generator

ODD_SIZES = (
    *((1, 1), (1, 2), (2, 1), (1, 97), (97, 1), (2, 2), (3, 5), (16, 16), (17, 15), (31, 33), (64, 48)),
    *((255, 7), (7, 257), (128, 128), (100, 150), (48, 512), (511, 13)),
)


def side_lengths(random: Random) -> tuple[int, int]:
    """A size (h, w): often an awkward one."""
    if random.random() < 0.4:
        return ODD_SIZES[random.integers(len(ODD_SIZES))]
    return int(random.integers(1, 260)), int(random.integers(1, 260))


def picture(random: Random, dtype: str, channels: int, size: tuple[int, int] | None = None) -> Picture:
    """[H, W, channels] of one of several kinds: noise, extremes, nearly flat, ramps; floats of any magnitude, and
    -0."""
    height, width = size or side_lengths(random)
    shape = (height, width, channels)
    kind = random.integers(4)
    if dtype == "float32":
        noise = (random.standard_normal(shape) * 10.0 ** random.integers(-3, 5)).astype(np.float32)
        if kind == 0:
            return np.where(random.random(shape) < 0.3, np.float32(-0.0), noise)
        return np.rint(noise * 2) / np.float32(2) if kind == 1 else noise
    full = int(np.iinfo(dtype).max)
    if kind == 0:
        values = random.integers(0, 2, shape) * full
    elif kind == 1:
        values = random.integers(0, 3, shape) + full // 2 - 1
    elif kind == 2:
        values = (np.arange(height)[:, None, None] + np.arange(width)[:, None]) * (1 + np.arange(channels)) % (full + 1)
    else:
        values = random.integers(0, full + 1, shape)
    return values.astype(dtype)


def crop_position(random: Random, extent: int, window: float) -> np.float32:
    """Where to crop: anywhere, at an end, or within a rounding of half way between two offsets."""
    slack = extent - int(window)
    if slack == 0 or random.random() < 0.5:
        return single(random, 0, 1, (0.0, 0.5, 1.0))
    middle = np.float32((random.integers(0, abs(slack)) + 0.5) / abs(slack))
    return np.float32(random.choice([np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(1))]))


def single(random: Random, low: float, high: float, special: tuple[float, ...] = ()) -> np.float32:
    """A float32 of [low, high), or one of the special values half of the time."""
    if special and random.random() < 0.5:
        return np.float32(special[random.integers(len(special))])
    return np.float32(random.uniform(low, high))
