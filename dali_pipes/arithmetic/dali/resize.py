"""DALI CPU `resize`, bit for bit.

Two one-dimensional passes over float32 (see `sampling.py` for the geometry and the order, `filters.py` for the
filters):

1. Output pixel `i`: `p = i * scale + (origin + ((0.5 * scale - 0.5) - anchor))`, first tap `ceil(p)`. Tap `k` weighs
   `filter((k + (ceil(p) - p)) * filter_scale)`; the weights are divided by their sum, which is added up in the order
   of the taps.
2. A pass is `((+0 + x0 w0) + x1 w1) + ...`: multiply, round, add, round, taps in increasing order. No fused
   multiply-add. Taps outside of the image read the nearest pixel of it.
3. Between the passes the image stays float32.
4. Integer output: clamped, and rounded half to even where the loop is vectorised, half away from zero in the loop's
   scalar rest. After a vertical pass, rows are cut into tiles of 256 values (width times channels), and a tile's last
   `size % lanes` values are the rest. After a horizontal pass, the columns are cut where taps begin or end to need
   clamping, and each piece has a rest. `lanes` is 16 for uint8 and 8 for uint16.
5. Nearest neighbour moves pixels: the row is `floor` of a **running** float32 sum of `scale`, the column `floor` of a
   product.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Filter, Float32Array, Interpolation
from dali_pipes.arithmetic.dali.float32 import integer_max, round_half_away
from dali_pipes.arithmetic.dali.passes import Taps, horizontal, vertical
from dali_pipes.arithmetic.dali.sampling import Axis, Mode, Pair, Sampling, sampling
from dali_pipes.errors import ConfigError

f32 = np.float32
TILE = 256


def resize(
    image: Tensor,
    size: Pair,
    *,
    interp_type: Interpolation = "linear",
    antialias: bool = True,
    dtype: torch.dtype | None = None,
    mode: Mode = "default",
    roi_start: Pair | None = None,
    roi_end: Pair | None = None,
    roi_relative: bool = False,
    subpixel_scale: bool = True,
    max_size: Pair | None = None,
) -> Tensor:
    """Resize as DALI's CPU operator does; arguments and defaults are those of `nvidia.dali.fn.resize`.

    image: uint8, uint16 or float32 [H, W, C]. size: (height, width), may be fractional; 0 leaves an axis to the mode.
    dtype: the output's, `image.dtype` (default) or torch.float32. roi_start, roi_end: (y, x) in pixels, or as
    fractions of the image with `roi_relative`; an end before its start flips that axis. max_size: (height, width), 0
    for no limit.

    Returns [h, w, C], contiguous. Raises ConfigError for arguments that DALI would not take.
    """
    out_dtype = check_resize_dtypes(image, dtype)
    plan = sampling(
        (image.shape[0], image.shape[1]),
        size,
        interp_type,
        antialias,
        mode,
        roi_start,
        roi_end,
        roi_relative,
        subpixel_scale,
        max_size,
    )
    y, x = plan.y, plan.x
    image = image[y.start : y.stop, x.start : x.stop]
    if interp_type == "nn":
        return gather(image, nearest_rows(y), nearest_columns(x)).to(out_dtype)
    if plan.horizontal_first:
        result = vertical(horizontal(image, taps(x)), taps(y))
    else:
        result = horizontal(vertical(image, taps(y)), taps(x))
    if out_dtype == torch.float32:
        return result
    return _to_integer(result, out_dtype, plan)


def check_resize_dtypes(image: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the output type of a resize.

    Raises ConfigError unless the image is HWC and DALI's resize takes both types.
    """
    if image.ndim != 3:
        raise ConfigError(f"resize found an image of shape {tuple(image.shape)}; it needs [H, W, C]")
    if image.dtype != torch.float32:
        integer_max(image.dtype)
    if dtype not in (None, image.dtype, torch.float32):
        raise ConfigError(
            f"resize can not turn {image.dtype} into {dtype}; allowed are {image.dtype} and torch.float32"
        )
    return dtype or image.dtype


def gather(image: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Return `image[rows][:, columns]` for any pixel type, contiguous."""
    # PyTorch indexes no uint16 on some devices; the bits are the same.
    view = image.view(torch.int16) if image.dtype == torch.uint16 else image
    picked = view.index_select(0, torch.from_numpy(rows).to(view.device))
    return picked.index_select(1, torch.from_numpy(columns).to(view.device)).view(image.dtype)


def nearest_rows(axis: Axis) -> NDArray[np.int64]:
    """Source row of each output row: DALI walks down with a float32 sum."""
    steps = np.full(axis.size, axis.scale, f32)
    steps[0] = f32(axis.origin + f32(f32(0.5) * axis.scale))
    rows: NDArray[np.int64] = np.floor(np.add.accumulate(steps, dtype=f32)).astype(np.int64)
    return rows.clip(0, axis.extent - 1)


def nearest_columns(axis: Axis) -> NDArray[np.int64]:
    """Source column of each output column: one product each, or a plain shift at scale 1.

    Raises ConfigError where DALI would read outside of the image.
    """
    if axis.scale == 1:
        columns = int(np.floor(f32(axis.origin + f32(0.5)))) + np.arange(axis.size)
    else:
        position = axis.origin + (np.arange(axis.size, dtype=f32) + f32(0.5)) * axis.scale
        columns = np.floor(position).astype(np.int64)
    if columns.min() < 0 or columns.max() >= axis.extent:
        first, last = columns.min() + axis.start, columns.max() + axis.start
        raise ConfigError(
            f"resize with nn samples columns {first} to {last} of {axis.stop}; DALI reads other memory there, and its "
            "pixels mean nothing: keep the region inside of the image"
        )
    return columns


@functools.lru_cache(maxsize=256)
def taps(axis: Axis) -> Taps:
    """Return first taps and weights of a pass along one axis."""
    kernel, support = axis.filter, axis.filter.support
    start = f32(axis.origin + f32(f32(f32(f32(0.5) * axis.scale) - f32(0.5)) - kernel.anchor))
    position = np.arange(axis.size, dtype=f32) * axis.scale + start
    first = np.ceil(position)
    offset = np.arange(support, dtype=f32)[:, None] + (first - position)[None]
    weight = evaluate(kernel, offset * kernel.scale)
    total = np.zeros(axis.size, f32)
    for row in weight:
        total = total + row
    weight = np.divide(weight, total, out=weight, where=total != 0)
    first_tap = first.astype(np.int64)
    index = np.clip(first_tap[None] + np.arange(support)[:, None], 0, axis.extent - 1)
    return Taps(first_tap, torch.from_numpy(index), torch.from_numpy(weight[..., None]))


def evaluate(kernel: Filter, x: Float32Array) -> Float32Array:
    """Evaluate the filter at positions counted in table entries; product and sum are each rounded."""
    left, right, fraction = kernel.neighbours(x)
    value: Float32Array = left + fraction * (right - left)
    return value


def _to_integer(x: Tensor, dtype: torch.dtype, plan: Sampling) -> Tensor:
    """Clamp and round the last pass's float32 [h, w, C]; works in place."""
    lanes = 16 // dtype.itemsize
    if plan.horizontal_first:
        scalar = _scalar_after_vertical(x.shape[1] * x.shape[2], lanes)
        values = x.view(x.shape[0], -1)
    else:
        scalar = _scalar_after_horizontal(plan.x, lanes)
        values = x
    values.clamp_(0.0, integer_max(dtype))
    away = torch.from_numpy(scalar).to(x.device)
    result = torch.round(values).to(dtype)
    if len(away):
        result = _with_rest(result, values, away)
    return result.view(x.shape)


def _with_rest(result: Tensor, values: Tensor, away: Tensor) -> Tensor:
    """Return `result` with the listed columns (dimension 1) rounded half away from zero."""
    rest = round_half_away(values.index_select(1, away)).to(result.dtype)
    if result.dtype == torch.uint16:
        result.view(torch.int16).index_copy_(1, away, rest.view(torch.int16))
        return result
    return result.index_copy_(1, away, rest)


@functools.lru_cache(maxsize=256)
def _scalar_after_vertical(values: int, lanes: int) -> NDArray[np.int64]:
    """Return which of a row's values the vertical pass's scalar loop writes."""
    position = np.arange(values)
    tile = np.minimum(TILE, values - position // TILE * TILE)
    return np.flatnonzero(position % TILE >= tile // lanes * lanes)


@functools.lru_cache(maxsize=256)
def _scalar_after_horizontal(axis: Axis, lanes: int) -> NDArray[np.int64]:
    """Return which output columns the horizontal pass's scalar loop writes."""
    first = taps(axis).first
    before, after = first < 0, first + axis.filter.support > axis.extent
    leading, trailing = (after, before) if first[-1] < first[0] else (before, after)
    begin = int(np.argmin(leading)) if not leading.all() else axis.size
    end = axis.size - (int(np.argmin(trailing[::-1])) if not trailing.all() else axis.size)
    scalar = np.zeros(axis.size, bool)
    x = 0
    for stop in (min(begin, end), begin, end, axis.size):
        vectors = max(0, stop - x) // lanes * lanes
        scalar[x + vectors : stop] = True
        x = max(x, stop)
    return np.flatnonzero(scalar)
