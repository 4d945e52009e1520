"""The windows that a file offers (PS3.3 C.11.2, and per frame C.7.6.16.2.10), and its polarity.

Polarity: C.7.6.3.1.2 and C.11.6.
"""

from __future__ import annotations

from typing import Any

from dali_pipes.decode.dicom.elements import Elements
from dali_pipes.decode.dicom.groups import macro
from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.lut import has_lut, read_lut
from dali_pipes.decode.dicom.values import numbers, text
from dali_pipes.decode.grayscale import VOILUT, Candidates
from dali_pipes.decode.voi import FUNCTIONS
from dali_pipes.errors import DecodeError, LimitError

_MOST_LUTS = 32


def candidates(header: Header, frame: int, lowest: float) -> Candidates:
    """Every window and table of the frame.

    lowest: the smallest modality value, which tells whether a table's first input may be negative.
    """
    home = macro(header.dataset, frame, "FrameVOILUTSequence")
    found: dict[str, Any] = {}
    try:
        found["windows"], found["function"] = _windows(home)
    except DecodeError as error:
        found["window_problem"] = str(error)
    try:
        found["luts"] = tuple(_lut(item, lowest) for item in home.items("VOILUTSequence")[:_MOST_LUTS] if has_lut(item))
    except LimitError:
        raise
    except DecodeError as error:
        found["lut_problem"] = str(error)
    return Candidates(**found)


def _windows(home: Elements) -> tuple[tuple[tuple[float, float], ...], str]:
    """(center, width) pairs and their function; raises DecodeError for what the standard gives no meaning."""
    centers, widths = numbers(home, "WindowCenter"), numbers(home, "WindowWidth")
    if len(centers) != len(widths):
        raise DecodeError(
            f"the file has {len(centers)} values of Window Center (0028,1050) and {len(widths)} of Window Width "
            "(0028,1051); they belong in pairs"
        )
    function = (text(home, "VOILUTFunction") or "LINEAR").lower()
    if function not in FUNCTIONS:
        raise DecodeError("the VOI LUT Function (0028,1056) is none of LINEAR, LINEAR_EXACT and SIGMOID")
    return tuple(zip(centers, widths)), function


def _lut(item: Elements, lowest: float) -> VOILUT:
    lut = read_lut(item, lowest < 0)
    return VOILUT(lut.first, tuple(int(e) for e in lut.entries), (1 << lut.bits) - 1)


def inverted(header: Header) -> bool:
    """Return whether the smallest value is white.

    MONOCHROME1 (C.7.6.3.1.2) says how the minimum is meant to look "after any VOI gray scale transformations";
    Presentation LUT Shape (C.11.6) is the step after those, and says what their output is: IDENTITY, that it is
    P-Values, whose smallest is the darkest, INVERSE, that it is so once it is inverted. As the later and more precise
    of the two it decides where it is there, so a MONOCHROME1 image with IDENTITY is not inverted, and one with INVERSE
    is inverted once. dcm4che and DCMTK do the same.
    """
    shape = text(header.dataset, "PresentationLUTShape")
    return shape == "INVERSE" if shape in ("INVERSE", "IDENTITY") else header.photometric == "MONOCHROME1"
