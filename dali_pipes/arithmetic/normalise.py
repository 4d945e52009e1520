"""From stored values to network input: flips, and `y = (x - m) * inv` with two roundings.

    m   = f32(mean * full_scale)          mean in units of full scale, the product in float64
    d   = f32(std * full_scale)
    inv = f32(1 / f64(d))
    y   = f32(f32(f32(x) - m) * inv)      never fused into one rounding

This is what DALI's CPU `crop_mirror_normalize` computes, what `(x.float() - m) * inv` computes in PyTorch, and what
`__fmul_rn(__fsub_rn(x, m), inv)` computes in a kernel. `full_scale` is 255 for uint8 and 65535 for uint16; both types
are exact in float32. float16 output is y rounded once more, to nearest, ties to even; what lies beyond 65504 becomes
infinite.

Flips move pixels of the finished picture, so they may come before or after normalising.

Both functions run in the calling thread: NumPy starts none, and PyTorch none for the small blocks that it is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.errors import ConfigError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_BLOCK = 131072
"""Pixels at a time: 512 KiB of float32 stay in a core's second cache for all three steps. Smaller blocks would fit the
first one, but threads that share a batch then pass the GIL to each other so often that two are slower than one."""
_HALF_BLOCK = 16384
"""Pixels at a time for float16: PyTorch, which rounds them, works in the calling thread on less than 32768."""


def normalisation(mean: Sequence[float], std: Sequence[float], full_scale: int = 255) -> tuple[Floats, Floats]:
    """Return constants `(m, inv)`, float32[C] each, from mean and standard deviation in units of full scale.

    >>> normalisation([0.5], [0.25], 255)
    (array([127.5], dtype=float32), array([0.01568628], dtype=float32))

    Raises ConfigError if they differ in length, are not finite, beyond float32, or a deviation is not positive.
    """
    if len(mean) != len(std) or not len(mean):
        raise ConfigError(f"mean has {len(mean)} values and std has {len(std)}; give one of each per channel")
    with np.errstate(over="ignore", divide="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        m = (np.asarray(mean, np.float64) * full_scale).astype(np.float32)
        d = (np.asarray(std, np.float64) * full_scale).astype(np.float32)
        inv = (1.0 / d.astype(np.float64)).astype(np.float32)
    if not all(np.isfinite(constants).all() for constants in (m, d, inv)) or not (d > 0).all():
        raise ConfigError(
            f"mean {list(mean)} and std {list(std)} must be finite, in units of full scale, and each std above 0; and "
            "float32 must hold them and the inverse of each std"
        )
    return m, inv


def normalise_into(
    out: torch.Tensor | Array, x: torch.Tensor | Array, m: Floats, inv: Floats, hflip: bool = False, vflip: bool = False
) -> None:
    """Write `(x - m) * inv`, flipped as asked, into `out`.

    out: float32 or float16 [C, H, W] in main memory. x: uint8 or uint16 [C, H, W] in main memory, may be read-only.
    m, inv: float32[C] from `normalisation`. Raises ConfigError if types or shapes do not go together.
    """
    target, source = _pair(out, x)
    channels, height, width = source.shape
    if target.dtype not in (np.float32, np.float16) or len(m) != channels or len(inv) != channels:
        raise ConfigError(
            f"out is {target.dtype}, with {len(m)} means and {len(inv)} inverse deviations for {channels} channels; "
            "it must be float32 or float16, with one of each per channel"
        )
    half = target.dtype == np.float16
    rows = max(1, (_HALF_BLOCK if half else _BLOCK) // max(1, width))
    scratch = np.empty((rows, width), np.float32)
    for c in range(channels):
        plane = source[c, ::-1] if vflip else source[c]
        for r in range(0, height, rows):
            goal = target[c, r : r + rows]
            y = scratch[: len(goal)] if half else goal
            np.copyto(y, _mirrored(plane[r : r + rows]) if hflip else plane[r : r + rows])
            np.subtract(y, m[c], out=y)
            np.multiply(y, inv[c], out=y)
            if half:  # PyTorch converts in vectors, NumPy value by value; both round ties to even
                torch.from_numpy(goal).copy_(torch.from_numpy(y))


def copy_into(out: torch.Tensor | Array, x: torch.Tensor | Array, hflip: bool = False, vflip: bool = False) -> None:
    """Copy `x`, flipped as asked, into `out`.

    Both uint8 or both uint16, [C, H, W], in main memory; `x` may be read-only. Raises ConfigError if they do not match.
    """
    target, source = _pair(out, x)
    if target.dtype != source.dtype:
        raise ConfigError(f"copy_into keeps the type, and can't write {source.dtype} into {target.dtype}")
    source = source[:, ::-1] if vflip else source
    if not hflip:
        np.copyto(target, source)
    elif _in_words(source) and _in_words(target):
        np.copyto(target.view("<u8"), source.view(">u8")[..., ::-1])
    else:
        np.copyto(target, source[..., ::-1])


def _mirrored(block: Array) -> Array:
    """Return the rows reversed."""
    if _in_words(block):
        return block.view(">u8")[:, ::-1].astype("<u8").view(np.uint8)
    return block[:, ::-1]


def _in_words(x: Array) -> bool:
    """Return whether rows can be reversed eight bytes at a time, which is four times faster.

    The words are in reverse then, and each is read from its other end.
    """
    return x.dtype == np.uint8 and x.shape[-1] % 8 == 0 and x.strides[-1] == 1


def _pair(out: torch.Tensor | Array, x: torch.Tensor | Array) -> tuple[Array, Array]:
    target: Array = out.numpy() if isinstance(out, torch.Tensor) else out
    source: Array = x.numpy() if isinstance(x, torch.Tensor) else x
    if target.shape != source.shape or source.ndim != 3 or source.dtype not in (np.uint8, np.uint16):
        raise ConfigError(
            f"out is {target.dtype} {list(target.shape)} and x is {source.dtype} {list(source.shape)}; "
            "both must be [C, H, W] of one shape, and x uint8 or uint16"
        )
    return target, source
