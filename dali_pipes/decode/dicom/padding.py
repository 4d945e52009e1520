"""Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2).

Stored values that are no measurement, both ends inclusive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.values import numbers

_NAMES = {
    0x7FE00010: ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    0x7FE00008: ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    0x7FE00009: ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


def padding_range(header: Header) -> tuple[tuple[float, float] | None, list[str]]:
    """(low, high) in stored values, or None; and warnings.

    The VR (US or SS) is ambiguous: numbers are read with the pixels' sign.
    """
    value, limit = (numbers(header.dataset, name) for name in _NAMES[header.pixel_tag])
    if not value:
        return None, ["Pixel Padding Range Limit without Pixel Padding Value was ignored"] if limit else []
    ends = [value[0], limit[0] if limit else value[0]]
    if not header.is_float:
        ends = [_stored(int(end), header) for end in ends]
        low, high = (
            (-(1 << header.stored - 1), (1 << header.stored - 1) - 1)
            if header.signed
            else (0, (1 << header.stored) - 1)
        )
        if max(ends) < low or min(ends) > high:
            return None, [f"the padding value lies outside what {header.stored} bits can hold and was ignored"]
    return (min(ends), max(ends)), []


def _stored(value: int, header: Header) -> int:
    if header.signed and 32767 < value <= 65535 and header.allocated <= 16:
        return value - 65536
    if not header.signed and value < 0:
        return value + (1 << min(header.allocated, 16))
    return value


def padded(stored: NDArray[Any], ends: tuple[float, float] | None) -> NDArray[np.bool_] | None:
    """Return bool of the values' shape, or None where nothing is padding. Values that are not finite always are."""
    mask = np.zeros(stored.shape, np.bool_) if stored.dtype.kind != "f" else ~np.isfinite(stored)
    if ends is not None:
        mask |= (stored >= ends[0]) & (stored <= ends[1])
    return mask if mask.any() else None
