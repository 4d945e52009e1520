"""Look-up tables as DICOM writes them (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5): a descriptor of three numbers, and
data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dali_pipes.decode.dicom.values import attribute, numbers
from dali_pipes.errors import DecodeError


@dataclass(frozen=True)
class Lut:
    """The input `first` takes entries[0]. entries: uint16. bits: what the descriptor says, or more where the entries
    need more.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int


def read_lut(dataset: Dataset, descriptor: str, data: str, signed: bool, little: bool = True) -> Lut:
    """Raises DecodeError where the table is missing, or shorter than its descriptor says. signed: the first input may
    be negative.

    The descriptor's VR (US or SS) is ambiguous, so its numbers are read modulo 65536: 0 entries are 65536; the first
    input is negative only where the inputs can be.
    """
    count, first, bits = read_descriptor(dataset, descriptor, signed)
    return Lut(first, *widen(read_words(attribute(dataset, data), count, data, little), bits))


def read_descriptor(dataset: Dataset, name: str, signed: bool) -> tuple[int, int, int]:
    """(entries, first input, bits) of a descriptor."""
    values = numbers(dataset, name)
    if len(values) != 3:
        raise DecodeError(f"{name} has {len(values)} values, a look-up table's descriptor has 3")
    count, first, bits = (int(v) & 0xFFFF for v in values)
    return count or 65536, first - 65536 if signed and first > 32767 else first, bits


def read_words(value: Any, count: int, name: str, little: bool) -> NDArray[np.uint16]:
    """`count` entries, from 16-bit words, or from bytes where there are only half as many words."""
    if isinstance(value, bytes):
        packed = value
        words = np.frombuffer(value, "<u2" if little else ">u2", len(value) // 2)
    else:
        several = [] if value is None else list(value) if hasattr(value, "__iter__") else [value]
        words = np.array([int(v) & 0xFFFF for v in several], np.uint16)
        packed = words.astype("<u2").tobytes()
        little = True
    if words.size >= count:
        return words[:count].astype(np.uint16)
    if len(packed) >= count:
        flat = np.frombuffer(packed, np.uint8)
        if not little:  # bytes of big-endian words come in swapped pairs
            flat = flat[: flat.size // 2 * 2].view(np.uint16).byteswap().view(np.uint8)
        return flat[:count].astype(np.uint16)
    raise DecodeError(f"{name} has {words.size} entries, its descriptor says {count}")


def widen(entries: NDArray[np.uint16], bits: int) -> tuple[NDArray[np.uint16], int]:
    """The entries, and their depth: the descriptor's, unless it is impossible or an entry is larger (seen in the
    field).
    """
    needed = max(8, int(entries.max()).bit_length())
    return entries, bits if needed <= bits <= 16 else needed
