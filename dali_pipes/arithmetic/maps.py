"""Affine maps as float64[N, 2, 3], positions (x, y) to positions (x, y), with pixel centres at halves.

    x' = m00 x + m01 y + m02        y' = m10 x + m11 y + m12

Additions and multiplications in the order written, which give the same bits on every platform; no matrix product of a
library, whose order and fusing are its own.
"""

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.affine import Doubles, turn

Longs = npt.NDArray[np.int64]


def scaled(scale_x: Doubles, scale_y: Doubles, offset_x: Doubles, offset_y: Doubles) -> Doubles:
    """Return maps x' = scale_x x + offset_x, y' = scale_y y + offset_y. All arguments float64[N]."""
    maps = np.zeros((len(scale_x), 2, 3))
    maps[:, 0, 0], maps[:, 0, 2], maps[:, 1, 1], maps[:, 1, 2] = scale_x, offset_x, scale_y, offset_y
    return maps


def after(outer: Doubles, inner: Doubles) -> Doubles:
    """Return the maps that apply `inner`, then `outer`."""
    maps = np.empty(inner.shape)
    for i in range(2):
        a, b = outer[:, i, 0], outer[:, i, 1]
        for j in range(3):
            maps[:, i, j] = a * inner[:, 0, j] + b * inner[:, 1, j]
        maps[:, i, 2] += outer[:, i, 2]
    return maps


def inverse(maps: Doubles) -> Doubles:
    """Return the maps back. The determinants must not be 0."""
    a, b, c = (maps[:, 0, j] for j in range(3))
    d, e, f = (maps[:, 1, j] for j in range(3))
    scale = a * e - b * d
    back = np.empty(maps.shape)
    back[:, 0, 0], back[:, 0, 1], back[:, 0, 2] = e / scale, -b / scale, (b * f - c * e) / scale
    back[:, 1, 0], back[:, 1, 1], back[:, 1, 2] = -d / scale, a / scale, (c * d - a * f) / scale
    return back


def flipped(hflip: npt.NDArray[np.bool_], vflip: npt.NDArray[np.bool_], size: tuple[int, int]) -> Doubles:
    """Return the maps that mirror a picture of `size` (height, width); each is its own inverse."""
    height, width = size
    across, down = (np.where(flips, -1.0, 1.0) for flips in (hflip, vflip))
    return scaled(across, down, np.where(hflip, float(width), 0.0), np.where(vflip, float(height), 0.0))


def turned_back(turns: Longs, size: tuple[int, int]) -> Doubles:
    """Return maps from a picture of `size` (height, width) to what it was before quarter turns counter-clockwise.

    Before an odd number of them it was `width` high and `height` wide.
    """
    height, width = float(size[0]), float(size[1])
    maps = np.zeros((len(turns), 2, 3))
    forms = (
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((0.0, -1.0, height), (1.0, 0.0, 0.0)),
        ((-1.0, 0.0, width), (0.0, -1.0, height)),
        ((0.0, 1.0, 0.0), (-1.0, 0.0, width)),
    )
    for k, form in enumerate(forms):
        maps[turns == k] = form
    return maps


def sheared_back(shear_y: Doubles, shear_x: Doubles, size: tuple[int, int]) -> Doubles:
    """Return maps from a slanted picture of `size` (height, width) to the straight one, about the centre.

    shear_x: degrees that columns lean to the right, going down; shear_y: degrees that rows lean down, going right.
    The columns are slanted last.
    """
    slopes = []
    for degrees in (shear_x, shear_y):
        cosine, sine = turn(degrees)
        slopes.append(sine / cosine)
    middle_y, middle_x = size[0] / 2, size[1] / 2
    one, zero = np.ones(len(shear_x)), np.zeros(len(shear_x))
    columns = scaled(one, one, slopes[0] * middle_y, zero)  # x' = x - slope (y - middle)
    rows = scaled(one, one, zero, slopes[1] * middle_x)
    columns[:, 0, 1], rows[:, 1, 0] = -slopes[0], -slopes[1]
    return after(rows, columns)
