"""Headers of version-1 ``.npy`` files, written in one form and read back only in that form.

A reader that takes nothing but what the writer writes needs no tolerance: every other header is damage.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np

from .errors import IntegrityError

_MAGIC = b"\x93NUMPY\x01\x00"
_LONGEST = 1 << 12
_PLAIN = re.compile(r"[<>|][biufc][0-9]{1,2}")


def header(dtype: np.dtype[Any], shape: tuple[int, ...], size: int = 0) -> bytes:
    """The bytes before the data of a C-ordered array: ``size`` of them, or as few as make a multiple of 64."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode()
    size = size or -(-(len(text) + 11) // 64) * 64
    return _MAGIC + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n"


def parse(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """dtype, shape and size of the header with which ``head`` begins. Raises IntegrityError for any other header."""
    size = int.from_bytes(head[8:10], "little") + 10
    try:
        if head[:8] != _MAGIC or not 64 <= size <= min(_LONGEST, len(head)):
            raise ValueError("not a version-1 .npy file")
        fields = ast.literal_eval(head[10:size].decode("ascii").strip())
        dtype, shape = plain(fields["descr"], fields["shape"])
        if head[:size] != header(dtype, shape, size):
            raise ValueError("not a header that this cache writes")
    except (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError) as error:
        raise IntegrityError(f"its header is damaged: {error}") from None
    return dtype, shape, size


def plain(descr: object, shape: object) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of an array of plain numbers, from ``dtype.str`` and a sequence. Raises ValueError, TypeError."""
    if not isinstance(descr, str) or not _PLAIN.fullmatch(
        descr
    ):  # NumPy would take much else, some of it with warnings
        raise ValueError("no plain numbers")
    if not isinstance(shape, tuple | list) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("no shape of an array")
    return np.dtype(descr), tuple(shape)


def nbytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array, exact however large the numbers in a damaged header are."""
    total = dtype.itemsize
    for length in shape:
        total *= length
    return total
