"""The portable resize: the bits that every backend must give, as int32 tensor operations for any device.

A picture of `h` x `w` pixels is resized to `nh` x `nw` by two passes, **horizontal first**, each skipped when its two
sizes are equal:

    y[i] = clamp((2**(p-1) + sum over k of weights[i, k] * x[start[i] + k]) >> p,  0, full scale)

with `start`, `weights` and `p` from `tables`, int32 throughout, an arithmetic shift, and the result stored in the
input's type (uint8 or uint16) between the passes. Integer addition has no order, so any loop on any device gives these
bits. For uint8 they are PyTorch's `F.interpolate(x, (nh, nw), mode=..., antialias=True)`; PyTorch has no such path for
uint16.

`base_image` chooses among forms that are equal bit for bit; see `_resize_window`.
"""

import logging
from functools import lru_cache
from itertools import product
from threading import Lock

import numpy as np
import torch

from dali_pipes.arithmetic.geometry import Fit, Geometry, Size, as_size, geometry
from dali_pipes.arithmetic.passes import Pixels, as_tensor, through_numpy, through_torch
from dali_pipes.arithmetic.tables import Interpolation, Table, check_interpolation, table
from dali_pipes.errors import ConfigError

_log = logging.getLogger(__name__)
_first_use = Lock()


def resize(x: torch.Tensor, size: int | Size, interpolation: Interpolation = "bilinear") -> torch.Tensor:
    """Resize a planar picture by the int32 reference, on the device where it lies.

    x: uint8 or uint16 [..., h, w]. Returns the same type, [..., nh, nw], contiguous. Raises ConfigError for another
    type or a bad size.
    """
    nh, nw = as_size(size)
    check_interpolation(interpolation)
    if x.dtype not in (torch.uint8, torch.uint16) or x.dim() < 2:
        raise ConfigError(f"resize takes uint8 or uint16 of shape [..., h, w], not {x.dtype} {list(x.shape)}")
    depth = 8 * x.dtype.itemsize
    y = x.to(torch.int32)
    for axis, o in ((-1, nw), (-2, nh)):
        if y.shape[axis] != o:
            y = _pass(y, table(y.shape[axis], o, interpolation, depth), axis, (1 << depth) - 1)
    return y.to(x.dtype).contiguous()


def _pass(x: torch.Tensor, weights: Table, axis: int, full_scale: int) -> torch.Tensor:
    """One pass over int32 values."""
    index = torch.from_numpy(weights.start.astype(np.int64)).to(x.device)
    factors = torch.from_numpy(weights.weights.copy()).to(x.device)
    shape = list(x.shape)
    shape[axis] = len(weights.start)
    total = torch.full(shape, 1 << (weights.precision - 1), dtype=torch.int32, device=x.device)
    column = [1] * x.dim()
    column[axis] = -1
    for k in range(weights.taps):
        total += x.index_select(axis % x.dim(), index + k) * factors[:, k].view(column)
    return (total >> weights.precision).clamp_(0, full_scale)


def base_image(pixels: Pixels, size: int | Size, fit: Fit, interpolation: Interpolation = "bilinear") -> Pixels:
    """Bring a decoded picture to its base size: resize, cut or pad, to planes.

    pixels: uint8 or uint16 [H, W, C], any strides, may be read-only. Returns a new C-contiguous array [C, h, w] of the
    same type. Raises ConfigError for another type or shape, a bad size, fit or interpolation.
    """
    check_interpolation(interpolation)
    if pixels.ndim != 3 or pixels.shape[2] < 1 or pixels.dtype not in (np.uint8, np.uint16):
        raise ConfigError(f"a picture is uint8 or uint16 [H, W, C], not {pixels.dtype} {list(pixels.shape)}")
    place = geometry(pixels.shape[0], pixels.shape[1], size, fit)
    if min(pixels.strides) < 0:  # PyTorch takes no negative strides
        pixels = np.ascontiguousarray(pixels)
    visible = _resize_window(pixels, place, interpolation)
    if place.window == place.size and not np.may_share_memory(visible, pixels):
        return np.ascontiguousarray(visible)
    out = np.zeros((pixels.shape[2], *place.size), pixels.dtype)
    (top, left), (h, w) = place.pad, place.window
    out[:, top : top + h, left : left + w] = visible
    return out


def _resize_window(pixels: Pixels, place: Geometry, interpolation: Interpolation) -> Pixels:
    """Return the visible part of the resized picture, by the cheaper of two forms with the same bits."""
    (nh, nw), (h, w), (top, left) = place.resized, place.window, place.crop
    if (nh, nw) == pixels.shape[:2]:
        planes: Pixels = as_tensor(pixels).permute(2, 0, 1)[:, top : top + h, left : left + w].contiguous().numpy()
        return planes
    # PyTorch can only resize the whole; for a strip cut from a picture of extreme shape most of that is waste.
    worth_it = pixels.dtype == np.uint8 and nw > 1 and nh * nw <= 4 * h * w
    if worth_it and fast_path_is_exact():
        return through_torch(pixels, place.resized, interpolation)[:, top : top + h, left : left + w]
    return through_numpy(pixels, place, interpolation)


def fast_path_is_exact() -> bool:
    """Whether PyTorch's uint8 antialias path gives the reference's bits here, found out at the process's first call.

    If it does not, one warning is logged, and integer loops serve instead. Safe to call from many threads.
    """
    with _first_use:
        return _self_check()


@lru_cache(maxsize=1)
def _self_check() -> bool:
    noise = np.random.default_rng(0).integers(0, 256, (61, 48, 3), dtype=np.uint8)
    modes: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    sizes = ((23, 31), (90, 20), (61, 16), (32, 48), (5, 2), (1, 8), (97, 113))
    for mode, channels, size in product(modes, (1, 3), sizes):
        pixels = noise[..., :channels]
        expected = resize(torch.from_numpy(pixels).permute(2, 0, 1), size, mode).numpy()
        if not np.array_equal(through_torch(pixels, size, mode), expected):
            _log.warning(
                "F.interpolate(uint8, mode=%r, antialias=True) of PyTorch %s does not give the pixel contract's bits "
                "here (%d channels, 61x48 to %dx%d). Slower integer loops in NumPy, which do, are used instead.",
                mode,
                torch.__version__,
                channels,
                *size,
            )
            return False
    return True
