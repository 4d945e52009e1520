"""DALI GPU `resize`, as read from the shipped machine code.

**Unverified on hardware.**

The geometry, the filters and the order of the passes are the CPU's (`sampling.py`, `filters.py`). Different are:

1. Multiply and add are fused in coordinates (`fma(i, scale, start)`), in the filter's interpolation and in the sum
   over taps.
2. The weights are not normalised beforehand: a pass is `sum * (1 / norm)`, the norm added up in the order of the
   taps.
3. `linear` without antialiasing, or enlarging, has a kernel of its own: `fma(b - a, q, a)`.
4. Integer outputs are rounded half to even everywhere, then clamped.
5. Nearest neighbour samples at `fma(i, scale, fma(scale, 0.5, origin))` on both axes.

Supports above 256 taps (a shrink by more than 128) take another kernel, which is not reproduced.
"""

import functools

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Float32Array, Interpolation
from dali_pipes.arithmetic.dali.float32 import fma, integer_max
from dali_pipes.arithmetic.dali.resize import check_resize_dtypes, gather
from dali_pipes.arithmetic.dali.sampling import Axis, Mode, Pair, sampling
from dali_pipes.errors import ConfigError

f32 = np.float32
MAX_TAPS = 256


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
    """Resize as DALI's GPU operator does (unverified on hardware); arguments as those of the CPU twin.

    Raises ConfigError for arguments that DALI would not take, and for a shrink by more than 128.
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
        return gather(image, _nearest(y), _nearest(x)).to(out_dtype)
    values = image.to(torch.float32)
    for axis, dimension in ((x, 1), (y, 0)) if plan.horizontal_first else ((y, 0), (x, 1)):
        values = _pass(values, axis, dimension)
    if out_dtype == torch.float32:
        return values
    return torch.round(values).clamp_(0.0, integer_max(out_dtype)).to(out_dtype)


def _pass(values: Tensor, axis: Axis, dimension: int) -> Tensor:
    shape = [1, 1, 1]
    shape[dimension] = axis.size
    if axis.filter.kind == "linear":
        low, high, fraction = _between(axis)
        near, far = values.index_select(dimension, low), values.index_select(dimension, high)
        return fma(far - near, fraction.view(shape), near)
    index, weight, inverse = _weights(axis)
    total = torch.zeros(1)
    for tap in range(len(index)):
        total = fma(values.index_select(dimension, index[tap]), weight[tap].view(shape), total)
    return total * inverse.view(shape)


def _nearest(axis: Axis) -> NDArray[np.int64]:
    start = _fused(axis.scale, f32(0.5), axis.origin)
    position = _fused(np.arange(axis.size, dtype=f32), axis.scale, start)
    index: NDArray[np.int64] = np.floor(position).astype(np.int64)
    return index.clip(0, axis.extent - 1)


def _between(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels around each output pixel, and the fraction between them."""
    start = f32(axis.origin) + _fused(axis.scale, f32(0.5), f32(-0.5))
    position = _fused(np.arange(axis.size, dtype=f32), axis.scale, start)
    floor = np.floor(position)
    low: NDArray[np.int64] = floor.astype(np.int64)
    first, second = (torch.from_numpy(index.clip(0, axis.extent - 1)) for index in (low, low + 1))
    return first, second, torch.from_numpy(position - floor)


@functools.lru_cache(maxsize=256)
def _weights(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """Return index int64[support, out], weight float32[support, out], and 1 / norm, float32[out]."""
    kernel, support = axis.filter, axis.filter.support
    if support > MAX_TAPS:
        raise ConfigError(
            f"DALI's GPU resize with {support} taps has no twin; allowed are {MAX_TAPS}: "
            "shrink by less, or in two steps"
        )
    start = f32(axis.origin) + (_fused(axis.scale, f32(0.5), f32(-0.5)) - kernel.anchor)
    position = _fused(np.arange(axis.size, dtype=f32), axis.scale, start)
    first = np.ceil(position)
    offset = (first - position) * kernel.scale
    left, right, fraction = kernel.neighbours(
        _fused(np.arange(support, dtype=f32)[:, None], kernel.scale, offset[None])
    )
    weight = _fused(right - left, fraction, left)
    norm = np.zeros(axis.size, f32)
    for row in weight:
        norm = norm + row
    index = np.clip(first.astype(np.int64)[None] + np.arange(support)[:, None], 0, axis.extent - 1)
    return torch.from_numpy(index), torch.from_numpy(weight), torch.from_numpy(f32(1) / norm)


def _fused(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Float32Array:
    operands = (torch.from_numpy(np.array(v, f32)) for v in (a, b, c))
    result: Float32Array = fma(*operands).numpy()
    return result
