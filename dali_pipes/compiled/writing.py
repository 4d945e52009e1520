"""A batch that threads in C write while the interpreter goes on.

Python's threads need the interpreter's lock to begin and to end a piece of work, and wait for it up to five
milliseconds each time while a training loop holds it. These do not.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.compiled import Array, addresses

AT_ONCE = 1 << 18
"""Up to this many bytes a batch is written by the calling thread, because it is done before another could begin."""

WORTH_A_THREAD = 1 << 21
"""Bytes of a batch for each thread that writes it."""


@functools.cache
def _functions(path: str) -> tuple[Any, Any, Any, Any] | None:
    """Return begin, done, and what waits with the interpreter's lock and without; None where they were not built."""
    holding, free = ctypes.PyDLL(path), ctypes.CDLL(path)
    if not hasattr(holding, "dp_begin"):
        return None
    begin, done = holding.dp_begin, holding.dp_done
    begin.restype = ctypes.c_void_p
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    begin.argtypes = [ctypes.c_int, *[pointer] * 3, *[size] * 4, *[pointer] * 2, size]
    waits = holding.dp_wait, free.dp_wait
    for each in (done, *waits):
        each.argtypes = [ctypes.c_void_p]
    for each in waits:
        each.restype = None
    return begin, done, *waits


class Writing:
    """A batch that is being written; see `begin`. If it is dropped, its threads are waited for first."""

    def __init__(self, functions: tuple[Any, Any, Any, Any], job: int, held: tuple[Any, ...]) -> None:
        _, self._done, self._join, self._wait = functions
        self._job: int | None = job
        self._held, self._process = held, os.getpid()

    def wait(self) -> None:
        """Return when everything is written."""
        job, self._job = self._job, None
        if job is None or os.getpid() != self._process:  # the threads did not come along through a fork
            return
        (self._join if self._done(job) else self._wait)(job)
        self._held = ()

    def __del__(self) -> None:
        if getattr(self, "_job", None) is not None:
            self.wait()


def begin(
    compiled: ctypes.CDLL,
    out: Array,
    pictures: Sequence[Array],
    flips: npt.NDArray[np.uint8],
    constants: tuple[Array, Array] | None,
    threads: int,
) -> Writing | None:
    """Begin to write pictures, flipped as asked, to `out[i]`; `takes(out, pictures)` holds.

    Args:
        compiled: from `library`.
        out: [N, C, H, W] of the pictures' type, or float32 with `constants`; nobody else looks at it meanwhile.
        pictures: N of uint8 or uint16 [C, H, W].
        flips: uint8[N], as for `copy_pictures`.
        constants: m and inv of `normalise_pictures`, or None to copy.
        threads: how many there may be.

    Returns:
        What waits for it; None where there are no such threads.
    """
    functions = _functions(compiled._name)
    if functions is None:
        return None
    count, planes, height, width = out.shape
    goals, sources = addresses(out, range(count), pictures)
    some = 0 if out.nbytes <= AT_ONCE else min(threads, count, -(-out.nbytes // WORTH_A_THREAD))
    m, inv = (None, None) if constants is None else (each.ctypes.data for each in constants)
    wide = pictures[0].dtype == np.uint16
    job = functions[0](wide, goals, sources, flips.ctypes.data, count, planes, height, width, m, inv, some)
    return Writing(functions, job, (out, pictures, flips, constants, goals, sources)) if job else None
