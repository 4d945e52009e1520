"""Read-only maps of files without a descriptor for each: a process may map more segments than it may open files.

From Python 3.13 on ``mmap`` can do that. Before, it keeps a descriptor for each map, so a cache of a thousand segments
would take all that a process has by default; there the C library is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

Buffer = Any
"""Read-only bytes of a file; the map ends when nothing refers to it any more."""


def map_file(fd: int, size: int) -> Buffer:
    """Return a shared map of the first ``size`` bytes of a file; ``fd`` may be closed then. Raises OSError."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ, trackfd=False)
    library = _library()
    if library is None:
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    address = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (a map of {size} bytes)")
    return np.asarray(_Map(address, size, library.munmap))


class _Map:
    """What NumPy takes the bytes from: as it has no buffer, no array of them can be made writable."""

    def __init__(self, address: int, size: int, unmap: Callable[[int, int], object]) -> None:
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, True)}
        weakref.finalize(self, unmap, address, size).atexit = False  # threads may still read then


@functools.cache
def _library() -> Any:
    """Return the C library, or None where its ``mmap`` cannot be relied on to take 64-bit numbers."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux" and ctypes.sizeof(ctypes.c_long) == 8:
            found = ctypes.CDLL(None, use_errno=True)
            found.mmap.restype = ctypes.c_void_p
            found.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
            found.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
            return found
    return None
