"""From stored values to network input: flips, and `y = (x - m) * inv` with two roundings.

    m   = f32(mean * full_scale)          mean in units of full scale, the product in float64
    d   = f32(std * full_scale)
    inv = f32(1 / f64(d))
    y   = f32(f32(f32(x) - m) * inv)      never fused into one rounding

This is what DALI's CPU `crop_mirror_normalize` computes, what `(x.float() - m) * inv` computes in PyTorch, and `__fmul_rn(__fsub_rn(x, m), inv)` in a
kernel. `full_scale` is 255 for uint8 and 65535 for uint16; both are exact in float32. float16 output is y rounded once more, ties to even.

Flips move pixels of the finished picture, before or after normalising alike.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.errors import ConfigError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_BLOCK = 16384
"""Pixels at a time: 64 KiB of float32 stay in the second-level cache for all three steps, and PyTorch starts no threads below 32768."""


def normalisation(mean: Sequence[float], std: Sequence[float], full_scale: int = 255) -> tuple[Floats, Floats]:
    """Constants `(m, inv)`, float32[C] each, from mean and standard deviation in units of full scale.

    >>> normalisation([0.5], [0.25], 255)
    (array([127.5], dtype=float32), array([0.01568628], dtype=float32))

    Raises ConfigError if they differ in length, are not finite, or a deviation is not positive.
    """
    if len(mean) != len(std) or not len(mean):
        raise ConfigError(f"mean has {len(mean)} values and std has {len(std)}; give one of each per channel")
    m = (np.asarray(mean, np.float64) * full_scale).astype(np.float32)
    d = (np.asarray(std, np.float64) * full_scale).astype(np.float32)
    if not np.isfinite(m).all() or not np.isfinite(d).all() or not (d > 0).all():
        raise ConfigError(f"mean {list(mean)} and std {list(std)} must be finite, in units of full scale, and each std above 0")
    return m, (1.0 / d.astype(np.float64)).astype(np.float32)


def normalise_into(
    out: torch.Tensor | Array, x: torch.Tensor | Array, m: Floats, inv: Floats, hflip: bool = False, vflip: bool = False
) -> None:
    """Write `(x - m) * inv`, flipped as asked, into `out`. One thread, no allocation but a block.

    out: float32 or float16 [C, H, W], CPU, contiguous. x: uint8 or uint16 [C, H, W], CPU, contiguous. m, inv: float32[C] of `normalisation`.
    Raises ConfigError if types or shapes do not go together.
    """
    target, source = _pair(out, x)
    if target.dtype not in (np.float32, np.float16) or len(m) != len(source) or len(inv) != len(source):
        raise ConfigError(f"normalise_into writes float32 or float16 with {len(source)} constants, not {target.dtype} with {len(m)}")
    rows = max(1, _BLOCK // max(1, source.shape[2]))
    height = source.shape[1]
    scratch = np.empty((rows, source.shape[2]), np.float32)
    for c in range(len(source)):
        plane = source[c, ::-1] if vflip else source[c]
        for r in range(0, height, rows):
            block = plane[r : r + rows]
            goal = target[c, r : r + rows]
            y = goal if target.dtype == np.float32 else scratch[: len(block)]
            np.copyto(y, block[:, ::-1] if hflip else block)
            np.subtract(y, m[c], out=y)
            np.multiply(y, inv[c], out=y)
            if target.dtype == np.float16:
                goal[...] = y
    return


def copy_into(out: torch.Tensor | Array, x: torch.Tensor | Array, hflip: bool = False, vflip: bool = False) -> None:
    """Copy `x`, flipped as asked, into `out`: both uint8 or both uint16, [C, H, W], CPU. Raises ConfigError if they do not match."""
    target, source = _pair(out, x)
    if target.dtype != source.dtype:
        raise ConfigError(f"copy_into keeps the type; it can't write {source.dtype} into {target.dtype}")
    source = source[:, ::-1] if vflip else source
    np.copyto(target, source[:, :, ::-1] if hflip else source)


def _pair(out: torch.Tensor | Array, x: torch.Tensor | Array) -> tuple[Array, Array]:
    target: Array = out.numpy() if isinstance(out, torch.Tensor) else out
    source: Array = x.numpy() if isinstance(x, torch.Tensor) else x
    if target.shape != source.shape or source.ndim != 3 or source.dtype not in (np.uint8, np.uint16):
        raise ConfigError(
            f"out is {target.dtype} {list(target.shape)} and x is {source.dtype} {list(source.shape)}; both must be [C, H, W] of one shape, x uint8 or uint16"
        )
    return target, source
