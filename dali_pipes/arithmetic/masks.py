"""Masks: class numbers that are moved, never mixed. The nearest pixel, in integers, by the same records as images.

`base_mask` does to a mask what `integer.base_image` does to its picture: the same place in the output (`geometry`), and
for output `i` of `o` made of `n` pixels the pixel

    floor((2 i + 1) n / (2 o))

which holds the output's centre (or begins there). `nearest` does what `plan.varied` does: in a crop the same rule;
under a warp the pixel whose centre is nearest to the position of the output's centre, halves upwards, and 0 outside.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.affine import FRACTION
from dali_pipes.arithmetic.geometry import Fit, Size, geometry

Mask = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]


def base_mask(mask: Mask, size: Size, fit: Fit) -> Mask:
    """Return the mask uint8[H, W] as it lies under its base image, uint8[*size]; 0 where nothing is shown."""
    place = geometry(mask.shape[0], mask.shape[1], size, fit)
    rows, columns = (
        _centres(place.resized[i], place.source[i])[place.crop[i] : place.crop[i] + place.window[i]] for i in (0, 1)
    )
    out = np.zeros(size, np.uint8)
    (top, left), (height, width) = place.pad, place.window
    out[top : top + height, left : left + width] = mask[rows[:, None], columns]
    return out


def nearest(mask: Mask, plan: Any, size: Size) -> Mask:
    """Return the base mask uint8[H, W] moved as its image, uint8[*size], C-contiguous. plan: a record of `PLAN`."""
    if plan["warped"]:
        return _warped(mask, plan, size)
    turns, flips = int(plan["turns"]), int(plan["flips"])
    before = size[::-1] if turns % 2 else size
    top, left, height, width = plan["box"].tolist()
    rows, columns = top + _centres(before[0], height), left + _centres(before[1], width)
    out = np.rot90(mask[rows[:, None], columns], turns)
    return np.ascontiguousarray(out[:: -1 if flips & 2 else 1, :: -1 if flips & 1 else 1])


def _centres(outputs: int, inputs: int) -> Longs:
    """Return the input pixel at each output's centre."""
    return (2 * np.arange(outputs, dtype=np.int64) + 1) * inputs // (2 * outputs)


def _warped(mask: Mask, plan: Any, size: Size) -> Mask:
    side, half = 1 << int(plan["doublings"]), 1 << (FRACTION - 1)
    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    indices = []
    for a, b, c in plan["warp"].reshape(2, 3).tolist():
        start = c + ((a + b) * (side - 1) >> 1) + half  # the centre of the output among the finer grid's
        indices.append((a * side * x + b * side * y + start) >> FRACTION)
    column, row = indices
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    return np.where(inside, mask[np.where(inside, row, 0), np.where(inside, column, 0)], np.uint8(0))
