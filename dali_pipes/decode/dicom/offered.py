"""The windows that a file offers (PS3.3 C.11.2, and per frame C.7.6.16.2.10), and its polarity (C.7.6.3.1.2,
C.11.6).
"""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from dali_pipes.decode.dicom.groups import macro
from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.lut import read_lut
from dali_pipes.decode.dicom.values import attribute, numbers
from dali_pipes.decode.grayscale import VOILUT, Candidates
from dali_pipes.decode.voi import FUNCTIONS
from dali_pipes.errors import DecodeError


def candidates(header: Header, frame: int, lowest: float) -> Candidates:
    """Every window and table of the frame. lowest: the smallest modality value, which tells whether a table's first
    input may be negative.
    """
    home = macro(header.dataset, frame, "FrameVOILUTSequence")
    found: dict[str, Any] = {}
    try:
        found["windows"], found["function"] = _windows(home)
    except DecodeError as error:
        found["window_problem"] = str(error)
    try:
        found["luts"] = tuple(_lut(item, header, lowest) for item in attribute(home, "VOILUTSequence") or ())
    except DecodeError as error:
        found["lut_problem"] = str(error)
    return Candidates(**found)


def _windows(home: Dataset) -> tuple[tuple[tuple[float, float], ...], str]:
    """(center, width) pairs and their function; raises DecodeError for what the standard gives no meaning."""
    centers, widths = numbers(home, "WindowCenter"), numbers(home, "WindowWidth")
    if len(centers) != len(widths):
        raise DecodeError(
            f"the file has {len(centers)} values of Window Center (0028,1050) and {len(widths)} of Window Width "
            "(0028,1051); they belong in pairs"
        )
    function = str(attribute(home, "VOILUTFunction") or "LINEAR").strip().lower()
    if function not in FUNCTIONS:
        raise DecodeError("the VOI LUT Function (0028,1056) is none of LINEAR, LINEAR_EXACT and SIGMOID")
    return tuple(zip(centers, widths)), function


def _lut(item: Any, header: Header, lowest: float) -> VOILUT:
    lut = read_lut(item, "LUTDescriptor", "LUTData", lowest < 0, header.syntax.little)
    return VOILUT(lut.first, tuple(int(e) for e in lut.entries), (1 << lut.bits) - 1)


def inverted(header: Header) -> bool:
    """Whether the smallest value is white: MONOCHROME1, or Presentation LUT Shape INVERSE. Both say the same: one
    inversion.
    """
    shape = str(attribute(header.dataset, "PresentationLUTShape") or "").strip().upper()
    return header.photometric == "MONOCHROME1" or shape == "INVERSE"
