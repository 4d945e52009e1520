"""Passes over memory in C, where they were built: the same bits as NumPy's several passes, in one, without the GIL.

| function | its twin in NumPy |
|---|---|
| `copy_pictures` | `arithmetic.copy_into` |
| `normalise_pictures` | `arithmetic.normalise_into` |
| `count_codes` | `decode.histogram.counts_of` |
| `look_up_codes` | `decode.histogram.look_up` |
| `writing.begin` | the two above, in Python's threads |
| `vary.warp_picture` | what `arithmetic.affine.warp` does without it |
| `vary.mix_picture` | `arithmetic.colour.mix` |

`passes.c`, `batch.c` and `vary.c` are built with the package if there is a C compiler, and loaded when they are first
asked for. Without it, or with DALI_PIPES_COMPILED=0, the twins do the work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SWITCH = "DALI_PIPES_COMPILED"
"""Environment variable: 0 leaves the compiled passes alone."""

_PASSES = ("dp_begin", "dp_copy_u8", "dp_count_u8", "dp_look_up_u8_u8", "dp_mix_u8", "dp_normalise_u8", "dp_warp_u8")
"""One function of each pass; a library of today's sources has them all, where there are POSIX threads."""

_KINDS = {np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def library() -> ctypes.CDLL | None:
    """Return the compiled passes; None where they were not built, or are switched off."""
    return None if os.environ.get(SWITCH) == "0" else _load()


@functools.cache
def _load() -> ctypes.CDLL | None:
    for path in candidates(Path(__file__).parent):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # built for another processor
            continue
    return None


def candidates(folder: Path) -> list[Path]:
    """Return the built libraries of a folder: this interpreter's first, then the newest.

    Any interpreter can load them all, but one that another interpreter left may be of older sources.
    """
    own = f"_passes{sysconfig.get_config_var('EXT_SUFFIX')}"
    return sorted(folder.glob("_passes*.so"), key=lambda path: (path.name != own, -path.stat().st_mtime_ns, path.name))


def lacking(compiled: ctypes.CDLL) -> list[str]:
    """Return the passes that a library of older sources lacks; NumPy, or Python's threads, do their work.

    Args:
        compiled: from `library`.
    """
    return [name for name in _PASSES if not hasattr(compiled, name)]


def takes(out: Array, pictures: Sequence[Any]) -> bool:
    """Whether the passes can write pictures, [C, H, W] each, into samples of `out`, [N, C, H, W]."""
    if set(map(type, pictures)) != {np.ndarray}:
        return False
    kind, shape = pictures[0].dtype, out.shape[1:]
    return (
        kind in _KINDS
        and out.dtype in (kind, np.float32)
        and out.flags.c_contiguous
        and all(each.dtype == kind and each.shape == shape and each.flags.c_contiguous for each in pictures)
    )


def copy_pictures(
    compiled: ctypes.CDLL, out: Array, at: Sequence[int], pictures: Sequence[Array], flips: npt.NDArray[np.uint8]
) -> None:
    """Copy pictures, flipped as asked, to `out[at[i]]`; `takes(out, pictures)` holds.

    Args:
        compiled: from `library`.
        out: [N, C, H, W] of the pictures' type.
        at: where each picture goes.
        pictures: uint8 or uint16 [C, H, W] each.
        flips: uint8[len(at)]: 1 mirrors left to right, 2 turns upside down, 3 does both.
    """
    _written(getattr(compiled, f"dp_copy_{_KINDS[out.dtype]}"), out, at, pictures, flips)


def normalise_pictures(
    compiled: ctypes.CDLL,
    out: npt.NDArray[np.float32],
    at: Sequence[int],
    pictures: Sequence[Array],
    flips: npt.NDArray[np.uint8],
    m: npt.NDArray[np.float32],
    inv: npt.NDArray[np.float32],
) -> None:
    """Write `(x - m) * inv` of pictures, flipped as asked, to `out[at[i]]`; each step rounds once.

    Args:
        compiled, at, pictures, flips: as for `copy_pictures`.
        out: float32[N, C, H, W].
        m, inv: float32[C], C-contiguous, from `arithmetic.normalisation`.
    """
    function = getattr(compiled, f"dp_normalise_{_KINDS[pictures[0].dtype]}")
    _written(function, out, at, pictures, flips, _address(m), _address(inv))


def count_codes(compiled: ctypes.CDLL, codes: Array) -> npt.NDArray[np.int64]:
    """Count how often each code occurs; int64[256] for uint8, int64[65536] for uint16.

    Args:
        compiled: from `library`.
        codes: C-contiguous uint8 or uint16 of any shape, fewer than 2**32.
    """
    size = 256**codes.itemsize  # of the whole type, so that no code can lie outside
    tables = np.zeros(4 * size, np.uint32)
    function = getattr(compiled, f"dp_count_{_KINDS[codes.dtype]}")
    function(_address(codes), ctypes.c_size_t(codes.size), _address(tables), ctypes.c_size_t(size))
    return tables[:size].astype(np.int64)


def look_up_codes(compiled: ctypes.CDLL, table: Array, codes: Array, out: Array) -> None:
    """Write `table[code]` for each code; codes beyond the table take its last entry.

    Args:
        compiled: from `library`.
        table: uint8 or uint16, not empty.
        codes: C-contiguous uint8 or uint16.
        out: C-contiguous, of the table's type and the codes' size.
    """
    whole = np.full(256**codes.itemsize, table[-1], table.dtype)  # so that no code can lie outside
    whole[: len(table)] = table[: len(whole)]
    function = getattr(compiled, f"dp_look_up_{_KINDS[codes.dtype]}_{_KINDS[table.dtype]}")
    function(_address(whole), _address(codes), _address(out), ctypes.c_size_t(codes.size))


def _written(
    function: Any, out: Array, at: Sequence[int], pictures: Sequence[Array], flips: Array, *constants: Any
) -> None:
    goals, sources = addresses(out, at, pictures)
    flags = np.ascontiguousarray(flips, np.uint8)
    sizes = [ctypes.c_size_t(n) for n in (len(pictures), *out.shape[1:])]
    function(goals, sources, _address(flags), *sizes, *constants)


def addresses(out: Array, at: Sequence[int], pictures: Sequence[Array]) -> tuple[Any, Any]:
    """Return where each picture goes in `out`, and where it lies: arrays of pointers."""
    many = ctypes.c_void_p * len(pictures)
    begin, each = out.ctypes.data, out.strides[0]
    sources = [picture.__array_interface__["data"][0] for picture in pictures]
    return many(*[begin + each * i for i in at]), many(*sources)


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
