"""Fast CPU forms of the portable resize, one thread each. They skip work or reorder integer sums, nothing else.

`through_torch`   uint8, by `F.interpolate(antialias=True)`. PyTorch's vector code serves 3 and 4 interleaved
                  channels; a gray picture would take its plain loop, four times slower. So four bands of rows pose as
                  four channels for the horizontal pass, and four neighbouring columns for the vertical one: a pass
                  treats all rows, or columns, alike.
`through_numpy`   uint8 or uint16, by the tables, computing only the part of the result that is asked for. Each tap is
                  one gather, multiply and add of contiguous int32 rows of a block that stays in the cache.

Neither starts threads: PyTorch's uint8 antialias kernels and NumPy's element-wise loops run in the calling thread
(measured: processor time equals wall time with two PyTorch threads allowed), and both let go of the GIL. So callers
may run one picture per thread, and need not touch PyTorch's thread settings.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dali_pipes.arithmetic.geometry import Geometry, Size
from dali_pipes.arithmetic.tables import Interpolation, Table, table

Pixels = npt.NDArray[Any]

_LANES = 4
_BLOCK = 128
"""Rows or columns at a time: for 512 outputs, two blocks of 256 KiB."""


class _Memory:
    """An array's memory, claimed writable: NumPy's array interface, and a reference that keeps it alive."""

    def __init__(self, array: Pixels):
        interface = array.__array_interface__
        self.array = array
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def as_tensor(array: Pixels) -> torch.Tensor:
    """Return a tensor over an array's memory, for reading only.

    `torch.from_numpy` warns about every read-only array, and cached pictures are read-only maps.
    """
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Memory(array)))


def through_torch(pixels: Pixels, size: Size, interpolation: Interpolation) -> Pixels:
    """Resize uint8 [H, W, C] to planes [C, h, w], w > 1, by F.interpolate.

    One column is not for PyTorch: its plain vertical pass, used without AVX2, repeats the first row (2.13).
    """
    if pixels.shape[2] != 1:
        return _interpolate(pixels, size, interpolation)
    rows: Pixels = pixels[..., 0]
    if rows.shape[1] != size[1]:
        rows = _gray_horizontal(rows, size[1], interpolation)
    h, w = rows.shape
    if h == size[0]:
        return rows[None]
    if w % _LANES or w == _LANES:
        return _interpolate(rows[..., None], size, interpolation)
    columns = np.ascontiguousarray(rows).reshape(h, w // _LANES, _LANES)
    lanes = _interpolate(columns, (size[0], w // _LANES), interpolation)
    together: Pixels = lanes.transpose(1, 2, 0).reshape(1, *size)
    return together


def _interpolate(pixels: Pixels, size: Size, interpolation: Interpolation) -> Pixels:
    planes = as_tensor(pixels).permute(2, 0, 1)[None]
    resized: Pixels = F.interpolate(planes, size, mode=interpolation, antialias=True)[0].numpy()
    return resized


def _gray_horizontal(rows: Pixels, w: int, interpolation: Interpolation) -> Pixels:
    height, width = rows.shape
    step = height // _LANES
    if not step:
        return _interpolate(rows[..., None], (height, w), interpolation).reshape(height, w)
    band = height - (_LANES - 1) * step  # the bands overlap where the height is no multiple of four
    strides = (height * width, step * width, width, 1)
    bands = as_tensor(np.ascontiguousarray(rows)).as_strided((1, _LANES, band, width), strides)
    resized: Pixels = F.interpolate(bands, (band, w), mode=interpolation, antialias=True)[0].numpy()
    if band == step:
        return resized.reshape(height, w)
    whole = np.empty((height, w), np.uint8)
    for k in range(_LANES):
        whole[k * step : k * step + band] = resized[k]
    return whole


def through_numpy(pixels: Pixels, place: Geometry, interpolation: Interpolation) -> Pixels:
    """Resize uint8 or uint16 [H, W, C] to `place.resized`, and return its visible part as planes [C, *place.window].

    Only the visible part is computed, from the rows that it needs.
    """
    depth = 8 * pixels.dtype.itemsize
    (h, w), (nh, nw), (top, left), (oh, ow) = place.source, place.resized, place.crop, place.window
    down = table(h, nh, interpolation, depth, top, oh)
    across = table(w, nw, interpolation, depth, left, ow)
    first, last = down.covers()
    needed = pixels[first:last]
    channels = pixels.shape[2]
    between = np.empty((channels, len(needed), ow), pixels.dtype)
    for c in range(channels):
        if w == nw:
            between[c] = needed[:, left : left + ow, c]
        else:
            _combine(needed[..., c].T, across, 0, between[c].T)
    if h == nh:
        return between
    out = np.empty((channels, oh, ow), pixels.dtype)
    for c in range(channels):
        _combine(between[c], down, first, out[c])
    return out


def _combine(x: Pixels, weights: Table, first: int, out: Pixels) -> None:
    """One pass along the first axis: x [n, m], which begins at sample `first` of the axis, to out [o, m]."""
    index = weights.start.astype(np.intp) - first
    factors = np.ascontiguousarray(weights.weights.T)[:, :, None]
    o, m = out.shape
    full_scale = np.iinfo(out.dtype).max
    for begin in range(0, m, _BLOCK):
        block = np.ascontiguousarray(x[:, begin : begin + _BLOCK]).astype(np.int32)
        total = np.full((o, block.shape[1]), 1 << (weights.precision - 1), np.int32)
        term = np.empty_like(total)
        for k in range(weights.taps):
            # "clip" spares NumPy a buffered copy; every index is inside.
            np.take(block, index + k, axis=0, out=term, mode="clip")
            np.multiply(term, factors[k], out=term)
            np.add(total, term, out=total)
        np.right_shift(total, weights.precision, out=total)
        np.clip(total, 0, full_scale, out=total)
        np.copyto(out[:, begin : begin + _BLOCK], total, casting="unsafe")
