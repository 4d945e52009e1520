"""Headers of version-1 ``.npy`` files, written in one form and read back only in that form.

A reader that takes nothing except what the writer writes needs no tolerance: every other header is damage. So the
texts are matched, never evaluated.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .errors import IntegrityError

_MAGIC = b"\x93NUMPY\x01\x00"
_LONGEST = 1 << 12
_PLAIN = re.compile(r"[<>|][biufc][0-9]{1,2}")
_TYPE, _SHAPE = rb"'([<>|][biufc][0-9]{1,2})'", rb"\(([0-9, ]{0,2000})\)"
_HEADER = re.compile(rb"\{'descr': " + _TYPE + rb", 'fortran_order': False, 'shape': " + _SHAPE + rb"\}")
_NOTE = re.compile(rb"\(" + _TYPE + rb", " + _SHAPE + rb"\)")


def header(dtype: np.dtype[Any], shape: tuple[int, ...], size: int = 0) -> bytes:
    """Return the bytes before the data of a C-ordered array: ``size``, or as few as make a multiple of 64."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode()
    size = size or -(-(len(text) + 11) // 64) * 64
    return _MAGIC + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n"


def parse(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and size of the header with which ``head`` begins. Raises IntegrityError for any other."""
    size = int.from_bytes(head[8:10], "little") + 10
    if head[:8] != _MAGIC or not 64 <= size <= min(_LONGEST, len(head)):
        raise IntegrityError("its header is damaged: not a version-1 .npy file")
    dtype, shape = _matched(_HEADER, head[10:size].strip())
    if head[:size] != header(dtype, shape, size):
        raise IntegrityError("its header is damaged: not one that this cache writes")
    return dtype, shape, size


def write_note(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return dtype and shape as a short text, for formats that have no place of their own for them."""
    return repr((dtype.str, shape)).encode()


def parse_note(text: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of a text that ``write_note`` made. Raises IntegrityError for any other."""
    dtype, shape = _matched(_NOTE, text)
    if text != write_note(dtype, shape):
        raise IntegrityError("its note of dtype and shape is damaged")
    return dtype, shape


def _matched(pattern: re.Pattern[bytes], text: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    found = pattern.fullmatch(text)
    if found is None:
        raise IntegrityError("its header is damaged: it names no plain numbers or no shape")
    try:
        return plain(found[1].decode(), [int(part) for part in found[2].split(b",") if part.strip()])
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"its header is damaged: {error}") from None


def plain(descr: object, shape: object) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of an array of plain numbers, from ``dtype.str`` and a sequence.

    Raises ValueError or TypeError for anything else; NumPy would take much else, some of it with warnings.
    """
    if not isinstance(descr, str) or not _PLAIN.fullmatch(descr):
        raise ValueError("no plain numbers")
    if not isinstance(shape, tuple | list) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("no shape of an array")
    return np.dtype(descr), tuple(shape)


def nbytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the bytes of an array, exactly, however large the numbers in a damaged header are."""
    total = dtype.itemsize
    for length in shape:
        total *= length
    return total
