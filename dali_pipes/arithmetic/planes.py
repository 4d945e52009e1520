"""Resizing a part of a base image, planes to planes: the bits of `integer.resize` of that part.

The fast form is `F.interpolate(part, size, mode, antialias=True)` on a copy of the part, which PyTorch's vector code
serves 3 and 4 planes at a time; one plane goes the way of `passes.through_torch`. Guarded by a self-check at first use.
"""

import logging
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dali_pipes.arithmetic.geometry import Geometry, Size
from dali_pipes.arithmetic.integer import fast_path_is_exact, resize
from dali_pipes.arithmetic.passes import through_numpy, through_torch
from dali_pipes.arithmetic.tables import Interpolation

Pixels = npt.NDArray[Any]
Box = tuple[int, int, int, int]

_log = logging.getLogger(__name__)
_first_use = Lock()


def resize_part(image: Pixels, box: Box, size: Size, interpolation: Interpolation = "bilinear") -> Pixels:
    """Return the part `box` (top, left, height, width) of an image, resized to `size`.

    Args:
        image: uint8 or uint16 [C, H, W], any positive strides, may be read-only.
        box: inside of the image.
        size: (height, width).
        interpolation: "bilinear" or "bicubic".

    Returns:
        [C, *size] of the same type: a view of `image` where nothing is resized, else a new contiguous array.
    """
    top, left, height, width = box
    part = image[:, top : top + height, left : left + width]
    if (height, width) == size:
        return part
    if image.dtype == np.uint8 and size[1] > 1 and fast_path_is_exact():
        if len(image) == 1:
            return np.ascontiguousarray(through_torch(part[0][..., None], size, interpolation))
        if planes_are_exact():
            return _interpolate(part, size, interpolation)
    return through_numpy(part.transpose(1, 2, 0), Geometry((height, width), size, size), interpolation)


def _interpolate(part: Pixels, size: Size, interpolation: Interpolation) -> Pixels:
    # PyTorch would copy a part with gaps between its rows itself, and more slowly.
    planes = torch.from_numpy(np.array(part, order="C"))[None]
    resized: Pixels = F.interpolate(planes, size, mode=interpolation, antialias=True)[0].numpy()
    return resized


def planes_are_exact() -> bool:
    """Tell whether PyTorch's resize of planes gives the reference's bits here; found out at the first call.

    If it does not, one warning is logged, and integer loops serve instead. Safe to call from many threads.
    """
    with _first_use:
        return _self_check()


@lru_cache(maxsize=1)
def _self_check() -> bool:
    noise = np.random.default_rng(0).integers(0, 256, (3, 61, 48), dtype=np.uint8)
    modes: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for mode in modes:
        for size in ((23, 31), (90, 20), (61, 16), (32, 48), (5, 2), (97, 113)):
            if not np.array_equal(_interpolate(noise, size, mode), resize(torch.from_numpy(noise), size, mode)):
                _log.warning(
                    "F.interpolate(uint8, mode=%r, antialias=True) of PyTorch %s does not give the pixel contract's "
                    "bits for planes here (61x48 to %dx%d). Slower integer loops in NumPy, which do, are used instead.",
                    mode,
                    torch.__version__,
                    *size,
                )
                return False
    return True
