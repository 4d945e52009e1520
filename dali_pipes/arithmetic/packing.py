"""What a launch of the kernels reads, laid out on the host: one buffer a batch, so one copy to the device.

    jobs       one record per picture (`RESIZE_JOB`, `FINISH_JOB`; the structures of `portable.cu`)
    tables     int32, one axis after another: `start[n]`, then `weights[taps][n]`; pictures that share an axis share
    its table
    m, inv     float32[C] each

NumPy only, so that it is tested without a GPU: the same buffer drives the kernels compiled for the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.geometry import Fit, Size, as_size, geometry
from dali_pipes.arithmetic.normalise import Floats
from dali_pipes.arithmetic.tables import Interpolation, Table, table
from dali_pipes.errors import ConfigError

_AXIS = np.dtype([("offset", "i4"), ("taps", "i4"), ("precision", "i4"), ("n", "i4")])

_PLACE = ("width", "first", "rows", "top", "left", "flips")
RESIZE_JOB = np.dtype(
    [("source", "u8"), ("between", "i8"), *((name, "i4") for name in _PLACE), ("across", _AXIS), ("down", _AXIS)]
)
FINISH_JOB = np.dtype([("source", "u8"), ("warp", "u8"), ("colours", "u8"), ("flips", "i4"), ("unused", "i4")])

_ALIGN = 16


@dataclass(frozen=True, eq=False)
class Packed:
    """One batch, ready for the device.

    buffer: uint8, holding the parts that start at byte `tables`, `m` and `inv`; the jobs start at 0.
    between: bytes of the buffer between the passes. columns, rows: the largest extent of the first pass.
    """

    buffer: npt.NDArray[np.uint8]
    tables: int
    m: int
    inv: int
    between: int = 0
    columns: int = 0
    rows: int = 0


def flip_bits(count: int, hflip: Sequence[bool] | None, vflip: Sequence[bool] | None) -> npt.NDArray[np.int32]:
    """Return the kernels' flip flags, int32[count]. None means no flip at all.

    Raises ConfigError unless there is one flag per picture.
    """
    bits = np.zeros(count, np.int32)
    for bit, flags in ((1, hflip), (2, vflip)):
        if flags is not None:
            if len(flags) != count:
                raise ConfigError(f"{len(flags)} flip flags for {count} pictures; give one for each")
            bits |= np.where(np.asarray(flags, bool), bit, 0).astype(np.int32)
    return bits


def pack_resize(
    sources: Sequence[tuple[int, int, int]],
    planes: int,
    size: int | Size,
    fit: Fit,
    interpolation: Interpolation,
    flips: npt.NDArray[np.int32],
    normalise: tuple[Floats, Floats] | None,
) -> Packed:
    """Lay out a batch of pictures to resize.

    sources: (address, height, width) of each. planes: channels of the result.
    """
    target = as_size(size)
    shelf = _Shelf()
    jobs = np.zeros(len(sources), RESIZE_JOB)
    between = 0
    for job, (address, h, w), bits in zip(jobs, sources, flips):
        place = geometry(h, w, target, fit)
        (nh, nw), (top, left), (oh, ow) = place.resized, place.crop, place.window
        down = table(h, nh, interpolation, 8, top, oh)
        first, last = down.covers()
        job["source"], job["between"], job["width"] = address, between, w
        job["first"], job["rows"] = first, last - first
        job["top"], job["left"] = place.pad
        job["flips"] = bits
        job["across"] = shelf.add(table(w, nw, interpolation, 8, left, ow))
        job["down"] = shelf.add(down)
        between += planes * (last - first) * ow
    columns, rows = int(jobs["across"]["n"].max(initial=0)), int(jobs["rows"].max(initial=0))
    return _pack(jobs, shelf.values(), normalise, planes, between, columns, rows)


def pack_finish(
    addresses: Sequence[int],
    planes: int,
    flips: npt.NDArray[np.int32],
    normalise: tuple[Floats, Floats] | None,
    warps: Sequence[int] | None = None,
    maps: Sequence[int] | None = None,
) -> Packed:
    """Lay out a batch of base pictures to finish.

    addresses: where each one's planes start. warps, maps: where each one's coefficients (int64[6]) and colour map
    (int64[planes, planes + 1]) start. Raises ConfigError for colour maps of more than 3 channels.
    """
    if maps is not None and planes > 3:
        raise ConfigError(f"a colour map of {planes} channels; the kernels mix up to 3")
    jobs = np.zeros(len(addresses), FINISH_JOB)
    jobs["source"], jobs["flips"] = addresses, flips
    jobs["warp"], jobs["colours"] = warps or 0, maps or 0
    return _pack(jobs, np.zeros(0, np.int32), normalise, planes)


class _Shelf:
    """Tables one after another, each once."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.int32]] = []
        self._length = 0
        self._axes: dict[int, tuple[Table, tuple[int, int, int, int]]] = {}

    def add(self, one: Table) -> tuple[int, int, int, int]:
        # Keyed by identity, as equal axes come from the cache as one object; holding the table keeps its identity its
        # own.
        if id(one) not in self._axes:
            self._axes[id(one)] = one, (self._length, one.taps, one.precision, len(one.start))
            self._parts += [one.start, one.weights.T.ravel()]
            self._length += one.start.size + one.weights.size
        return self._axes[id(one)][1]

    def values(self) -> npt.NDArray[np.int32]:
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.int32)


def _pack(
    jobs: npt.NDArray[Any],
    tables: npt.NDArray[np.int32],
    normalise: tuple[Floats, Floats] | None,
    planes: int,
    between: int = 0,
    columns: int = 0,
    rows: int = 0,
) -> Packed:
    m, inv = normalise or (np.zeros(planes, np.float32), np.zeros(planes, np.float32))
    if len(m) != planes or len(inv) != planes:
        raise ConfigError(
            f"{len(m)} means and {len(inv)} inverse deviations for {planes} channels; give one of each per channel"
        )
    parts = [jobs, tables, np.asarray(m, np.float32), np.asarray(inv, np.float32)]
    starts = [0]
    for part in parts:
        starts.append(-(-(starts[-1] + part.nbytes) // _ALIGN) * _ALIGN)
    buffer = np.zeros(max(_ALIGN, starts[-1]), np.uint8)
    for start, part in zip(starts, parts):
        buffer[start : start + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    return Packed(buffer, starts[1], starts[2], starts[3], between, columns, rows)
