"""Stored values to modality values (PS3.3 C.11.1).

A Modality LUT Sequence, else slope and intercept, which default to 1 and 0 each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.groups import macro
from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.lut import Lut, has_lut, read_lut
from dali_pipes.decode.dicom.values import number, text
from dali_pipes.errors import DecodeError

Floats = NDArray[np.float64]
_TO_INTENSITY = tuple(f"1.2.840.10008.5.1.4.1.1.12.{n}" for n in (1, 2, 3))
"""SOP classes of X-ray angiography and fluoroscopy, whose modality LUT is not for display: it leads from what is meant
to be looked at back to X-ray intensity (PS3.3 C.8.7.1.1.2). DCMTK, fo-dicom and dcm4che leave it out too.
"""
_LARGEST = 1e300  # of values: windows multiply their differences by 255


def modality(header: Header, frame: int) -> Lut | tuple[float, float]:
    """Return the frame's look-up table, or its (slope, intercept); a slope of 0 is taken for a missing one."""
    if text(header.dataset, "SOPClassUID") in _TO_INTENSITY:
        return 1.0, 0.0
    for item in header.dataset.items("ModalityLUTSequence")[:1]:
        if has_lut(item):  # C.11.1: it and the rescale exclude each other; where both are there the sequence wins
            return read_lut(item, header.signed)
    home = macro(header.dataset, frame, "PixelValueTransformationSequence")
    return number(home, "RescaleSlope", 1.0) or 1.0, number(home, "RescaleIntercept", 0.0)


def apply(rule: Lut | tuple[float, float], stored: NDArray[Any]) -> Floats:
    """float64 modality values of stored values (any shape).

    Beyond a table's ends its first and last entry hold (C.11.1.1.1). Raises DecodeError where they are too large to be
    told apart.
    """
    if isinstance(rule, Lut):
        index = np.clip(stored.astype(np.int64) - rule.first, 0, rule.entries.size - 1)
        return rule.entries[index].astype(np.float64)
    slope, intercept = rule
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64) * slope + intercept
    if not max(abs(values.min()), abs(values.max())) <= _LARGEST:
        raise DecodeError(f"the image's values, rescaled, are beyond {_LARGEST:g}: what they measure can't be so large")
    return values
