"""Roundings that DALI uses and that PyTorch does not offer as one call.

- Float to integer on the CPU is `std::round`: to nearest, halves **away from zero**, then saturated. (Vectorised
  loops use the processor's rounding instead, halves to even; see `resize.py` for which values take which path.)
- Float to half on the CPU is to nearest, ties **away from zero**; PyTorch, CUDA and IEEE 754 send ties to even.
- GPU kernels fuse multiply and add: one rounding, not two.

NaN has no defined integer value in DALI either, and is not considered.
"""

import ctypes
import functools

import torch
from torch import Tensor

from dali_pipes.errors import BackendError, ConfigError

INTEGER_MAX = {torch.uint8: 255.0, torch.uint16: 65535.0}


def round_half_away(x: Tensor) -> Tensor:
    """`std::round`: to the nearest integer, halves away from zero. float32 to float32, exact for finite values."""
    whole = torch.trunc(x)
    return whole + torch.trunc((x - whole).mul_(2.0))


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """DALI's scalar `ConvertSat`: float32 to uint8 or uint16 by `std::round` and clamping, to float32 unchanged."""
    if dtype == torch.float32:
        return x
    return round_half_away(x).clamp_(0.0, integer_max(dtype)).to(dtype)


def integer_max(dtype: torch.dtype) -> float:
    """Return the largest value of an integer pixel type.

    Raises ConfigError for any other type than uint8 and uint16.
    """
    if dtype not in INTEGER_MAX:
        raise ConfigError(f"pixels of {dtype} have no twin; allowed are torch.uint8, torch.uint16 and torch.float32")
    return INTEGER_MAX[dtype]


def to_half(y: Tensor) -> Tensor:
    """float32 to float16 as DALI's CPU operators do: to nearest, ties away from zero."""
    even = y.to(torch.float16)
    rounded = even.to(torch.float32)
    above = (even.view(torch.int16) + 1).view(torch.float16)  # the next larger magnitude of the same sign
    tie = (
        ((above.to(torch.float32) - y) == (y - rounded))
        & (y != rounded)
        & torch.isfinite(rounded)
        & torch.isfinite(above)
    )
    return torch.where(tie, above, even)


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Exact float32 `fmaf(a, b, c)`, broadcasting.

    The product of two float32 is exact in float64. Their float64 sum is corrected where rounding it a second time
    could go wrong: where it lies exactly on the midpoint of two float32 while being itself inexact.
    """
    product = a.double() * b.double()
    addend = c.double()
    total = product + addend
    result = total.to(torch.float32)
    midpoint = (total.view(torch.int64) & 0x1FFFFFFF) == 0x10000000
    if bool(midpoint.any()):
        p, q = product.expand_as(total)[midpoint], addend.expand_as(total)[midpoint]
        s = total[midpoint]
        virtual = s - p
        error = (p - (s - virtual)) + (q - virtual)  # Knuth's TwoSum: s + error is the exact sum
        towards = ((error > 0) == (s > 0)).to(torch.int64) * 2 - 1
        nudged = (s.view(torch.int64) + towards).view(torch.float64)
        result[midpoint] = torch.where(error != 0, nudged, s).to(torch.float32)
    return result


@functools.lru_cache(maxsize=1)
def libm() -> ctypes.CDLL:
    """Return the host's glibc math library, which DALI's own tables and angles come from.

    Raises BackendError where there is none: another `sinf` differs in the last bit of some values.
    """
    try:
        library = ctypes.CDLL("libm.so.6")
    except OSError as error:
        raise BackendError(
            "DALI's lanczos3, hue and rotation take sinf and cosf from glibc (libm.so.6), which this machine does not "
            "have; use another filter or run on Linux with glibc"
        ) from error
    for name in ("sinf", "cosf"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    for name in ("sin", "cos"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return library
