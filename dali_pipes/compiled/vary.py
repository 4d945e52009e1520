"""Warps and colour maps by compiled passes, with the bits of `arithmetic.affine` and `arithmetic.colour`.

Their twins there, in NumPy, serve where `passes` gives None.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.compiled import library

Array = npt.NDArray[Any]

MOST_PLANES = 4
"""Channels that `warp_picture` takes."""


def passes() -> ctypes.CDLL | None:
    """Return `compiled.library()`; None too where it was built from sources that had no such passes yet."""
    found = library()
    return found if found is not None and hasattr(found, "dp_mix_u8") else None


_KINDS = {np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def warp_picture(
    compiled: ctypes.CDLL, image: Array, coefficients: npt.NDArray[np.int64], doublings: int, out: Array
) -> None:
    """Sample a picture at the positions of a map, bilinearly, 0 outside of it; see `affine.warp`, which checks them.

    Args:
        compiled: from `library`.
        image: uint8 or uint16 [C, H, W], C at most `MOST_PLANES`.
        coefficients: int64[6]. doublings: 0 to 3.
        out: C-contiguous [C, h, w] of the same type.
    """
    source, by = np.ascontiguousarray(image), np.ascontiguousarray(coefficients)
    function = getattr(compiled, f"dp_warp_{_KINDS[image.dtype]}")
    function(_address(source), *_sizes(source), _address(by), ctypes.c_uint(doublings), _address(out), *_sizes(out)[1:])


def mix_picture(compiled: ctypes.CDLL, image: Array, colours: npt.NDArray[np.int64], out: Array) -> None:
    """Apply a colour map; see `colour.recolour`, which checks it.

    Args:
        compiled: from `library`.
        image: uint8 or uint16 [C, H, W], C 1 or 3.
        colours: int64[C, C + 1].
        out: C-contiguous, of the same type and shape.
    """
    source, by = np.ascontiguousarray(image), np.ascontiguousarray(colours)
    count = ctypes.c_size_t(source[0].size)
    function = getattr(compiled, f"dp_mix_{_KINDS[image.dtype]}")
    function(_address(source), ctypes.c_size_t(len(source)), count, _address(by), _address(out))


def _sizes(picture: Array) -> list[ctypes.c_size_t]:
    return [ctypes.c_size_t(n) for n in picture.shape]


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
