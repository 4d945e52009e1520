"""Codestream samples to stored values (PS3.5 8.1.1, PS3.3 C.7.6.3.1.1).

Mask and shift to the stored bits, then the sign.

The image stays a "code": its stored bits as an unsigned number. What the code means, sign included, is the table
`stored_values`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.plugins import Samples

MAX_CODE_BITS = 16


def stored_bits(samples: Samples, header: Header) -> tuple[int, bool, list[str]]:
    """How many bits the values have, whether they are signed, and warnings.

    JPEG 2000 and JPEG-LS codestreams carry their own precision and (JPEG 2000) sign. Where they contradict the header,
    the codestream's precision holds, for the decoder made its integers by it; the header's sign holds, as two's
    complement in that precision (PS3.5 8.2.4).
    """
    warnings = []
    bits = header.stored
    if samples.bits is not None and samples.bits != header.stored:
        warnings.append(f"Bits Stored is {header.stored}, the codestream has {samples.bits}")
        if header.syntax.family in ("jpeg-2000", "htj2k", "jpeg-ls"):
            bits = samples.bits
    if samples.signed is not None and samples.signed != header.signed:
        warnings.append(f"the header says {_sign(header.signed)}, the codestream {_sign(samples.signed)}")
    return bits, header.signed, warnings


def _sign(signed: bool) -> str:
    return "signed" if signed else "unsigned"


def codes_of(array: NDArray[Any], header: Header, bits: int, shift: int) -> NDArray[Any]:
    """Unsigned codes below 2**bits, of the array's shape and a dtype that holds `bits` bits.

    The array itself where it is that already.
    """
    if array.dtype.kind == "i":
        array = array.view(array.dtype.str.replace("i", "u"))
    if array.dtype.itemsize == 1 and bits > 8:  # a codestream of 8 bits under a header that says more
        array = array.astype(np.uint16)
    if shift:
        array = array >> array.dtype.type(shift)
    if array.dtype.itemsize * 8 > bits and int(array.max()) >> bits:
        array = array & array.dtype.type((1 << bits) - 1)
    return array


def stored_values(bits: int, signed: bool) -> NDArray[np.int64]:
    """int64[2**bits]: the stored value of each code."""
    codes = np.arange(1 << bits, dtype=np.int64)
    return np.where(codes >> (bits - 1) == 1, codes - (1 << bits), codes) if signed else codes


def extend(codes: NDArray[Any], bits: int, signed: bool) -> NDArray[np.int64]:
    """int64 stored values of codes that are too wide for a table."""
    wide = codes.astype(np.int64)
    return np.where(wide >> (bits - 1) == 1, wide - (1 << bits), wide) if signed else wide
