"""The base image by DALI's own arithmetic: what `parity="fast"` computes from a plain JPEG, without DALI.

DALI's graph decodes to RGB, then runs

    resize(size, mode=MODES[fit], interp_type, antialias=True, max_size=max_size(size))
    crop(size, out_of_bounds_policy="pad", fill_values=0)      unless the fit is "stretch"

and `dali_base_image` runs the twins of these operators (`dali_cpu`, or `dali_gpu` for resizing as a GPU does). The
sizes are DALI's: the side that the fit leaves open is rounded half up, where the portable contract takes the floor; the
crop is centred, halves away from zero.

`max_size` bounds the memory that a thin strip can ask for: under "crop" a picture of more than 32 times the target's
aspect is covered only in part, black beside it. (The portable contract never computes what is cut off; DALI does.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.arithmetic import dali_cpu, dali_gpu
from dali_pipes.arithmetic.dali.filters import Interpolation
from dali_pipes.arithmetic.dali.placement import crop_offset
from dali_pipes.arithmetic.dali.sampling import Mode
from dali_pipes.errors import ConfigError

MODES: dict[str, Mode] = {"stretch": "stretch", "crop": "not_smaller", "pad": "not_larger"}
"""DALI's resize mode for each fit."""

RESIZES: dict[str, Callable[..., torch.Tensor]] = {"dali-cpu": dali_cpu.resize, "dali-gpu": dali_gpu.resize}
"""The twin of each device's operator."""

INTERPOLATIONS: dict[str, Interpolation] = {"bilinear": "linear", "bicubic": "cubic"}
"""DALI's filter for each interpolation, by the names of `dali.filters`."""

_LONGEST = 32


def max_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) that a resize may give before it is cropped to `size`."""
    return _LONGEST * size[0], _LONGEST * size[1]


def dali_base_image(
    pixels: npt.NDArray[Any],
    size: tuple[int, int],
    fit: str,
    interpolation: str = "bilinear",
    emulate: str = "dali-cpu",
) -> npt.NDArray[np.uint8]:
    """Bring a decoded JPEG to its base size with the bits of DALI's operators.

    pixels: uint8 [H, W, 3], any strides, may be read-only. size: (height, width). emulate: "dali-cpu" or "dali-gpu"
    (unverified on hardware). Returns a new C-contiguous uint8 [3, h, w]. Raises ConfigError for another type or
    shape, an unknown fit, interpolation or emulation.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ConfigError(f"DALI's graph holds RGB, uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    for given, allowed in ((fit, MODES), (interpolation, INTERPOLATIONS), (emulate, RESIZES)):
        if given not in allowed:
            raise ConfigError(f"{given!r} has no form in DALI; allowed are {', '.join(allowed)}")
    resized = RESIZES[emulate](
        _tensor(pixels),
        size,
        interp_type=INTERPOLATIONS[interpolation],
        mode=MODES[fit],
        max_size=max_size(size),
    )
    return np.ascontiguousarray(_centred(resized.numpy(), size).transpose(2, 0, 1))


def _tensor(pixels: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor over the pixels where PyTorch can have one without a warning, else over a copy."""
    plain = pixels.flags.writeable and pixels.flags.c_contiguous
    return torch.from_numpy(pixels if plain else pixels.copy(order="C"))


def _centred(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return the middle of [H, W, C], with zeros where it is smaller than `size`."""
    if image.shape[:2] == size:
        return image
    out = np.zeros((*size, image.shape[2]), image.dtype)
    (top, bottom, above), (left, right, before) = (_span(image.shape[i], size[i]) for i in (0, 1))
    inside = image[top:bottom, left:right]
    out[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return out


def _span(source: int, window: int) -> tuple[int, int, int]:
    """First and last + 1 source pixel of a centred window along one axis, and where it begins in the window."""
    start = crop_offset(0.5, source, window)
    return max(start, 0), min(start + window, source), max(-start, 0)
