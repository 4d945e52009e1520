"""Look-up tables as DICOM writes them (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5).

A descriptor of three numbers, and data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.elements import Elements
from dali_pipes.decode.dicom.values import content, is_little, numbers
from dali_pipes.errors import DecodeError


@dataclass(frozen=True)
class Lut:
    """The input `first` takes entries[0].

    entries: uint16. bits: what the descriptor says, or more where the entries need more.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int


def has_lut(item: Elements) -> bool:
    """Return whether an item of a sequence of look-up tables holds any of one; some writers leave an empty item."""
    return content(item, "LUTDescriptor") is not None or content(item, "LUTData") is not None


def read_lut(item: Elements, signed: bool) -> Lut:
    """Return the table of an item of a Modality or VOI LUT Sequence.

    signed: the first input may be negative. Raises DecodeError where the table is missing, or shorter than its
    descriptor says. The descriptor's VR (US or SS) is ambiguous, so its numbers are read modulo 65536: 0 entries are
    65536; the first input is negative only where the inputs can be.
    """
    count, first, bits = read_descriptor(item, "LUTDescriptor", signed)
    return Lut(first, *widen(read_words(item, "LUTData", count), bits))


def read_descriptor(dataset: Elements, name: str, signed: bool) -> tuple[int, int, int]:
    """(entries, first input, bits) of a descriptor."""
    values = numbers(dataset, name)
    if len(values) != 3:
        raise DecodeError(f"{name} has {len(values)} values, a look-up table's descriptor has 3")
    count, first, bits = (int(v) & 0xFFFF for v in values)
    return count or 65536, first - 65536 if signed and first > 32767 else first, bits


def read_words(dataset: Elements, name: str, count: int) -> NDArray[np.uint16]:
    """Return uint16[count] from 16-bit words, or from bytes where there are only half as many words."""
    packed, little = content(dataset, name) or b"", is_little(dataset, name)
    words = np.frombuffer(packed, "<u2" if little else ">u2", len(packed) // 2)
    if words.size >= count:
        return words[:count].astype(np.uint16)
    if len(packed) >= count:
        flat = np.frombuffer(packed, np.uint8)
        if not little:  # bytes of big-endian words come in swapped pairs
            flat = flat[: flat.size // 2 * 2].view(np.uint16).byteswap().view(np.uint8)
        return flat[:count].astype(np.uint16)
    raise DecodeError(f"{name} has {words.size} entries, its descriptor says {count}")


def widen(entries: NDArray[np.uint16], bits: int) -> tuple[NDArray[np.uint16], int]:
    """Return the entries, and their depth.

    The depth is the descriptor's, unless it is impossible or an entry is larger (seen in the field).
    """
    needed = max(8, int(entries.max()).bit_length())
    return entries, bits if needed <= bits <= 16 else needed
