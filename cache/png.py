"""The ``disk`` mode: one PNG an entry, which every viewer opens; lossless for any array.

uint8 and uint16 arrays ``[C, H, W]`` with C of 1 or 3 become gray or RGB images of 8 or 16 bits a sample, H rows by W
columns. Any other array becomes a gray 8-bit image of its bytes, one row per index of the first axis: it looks odd
and comes back exactly. A private chunk ``dpEN`` holds dtype and shape.

The codec is this module's own (W3C PNG, third edition), because Pillow has no RGB of 16 bits. Every row has the
filter Up (2), the byte above subtracted, which NumPy undoes for a whole image with one running sum; a reader that
only takes what the writer writes needs no other.
"""

from __future__ import annotations

import ast
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .base import Array
from .errors import IntegrityError
from .filestore import FileStore
from .npyformat import nbytes, plain

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEVEL = 1  # of zlib: 3 saves some percent and takes twice as long
_UP = 2
_GRAY, _RGB = 0, 2
_MOST_RATIO = 1032  # deflate cannot expand more: a longer image is a lie


class PngStore(FileStore):
    """See the module."""

    mode = "disk"
    suffix = ".png"

    def _encode(self, array: Array) -> Sequence[Any]:
        return [encode(array)]

    def _decode(self, body: memoryview, fd: int) -> Array:
        return decode(body)


def is_image(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether an array is stored as the picture that it shows."""
    return dtype.str in ("|u1", "<u2") and len(shape) == 3 and shape[0] in (1, 3) and min(shape) > 0


def encode(array: Array) -> bytes:
    """A PNG of a C-contiguous array."""
    picture = is_image(array.dtype, array.shape)
    if picture:
        samples = np.ascontiguousarray(array.transpose(1, 2, 0))
        rows = (samples.byteswap() if array.dtype.itemsize == 2 else samples).view(np.uint8).reshape(array.shape[1], -1)
        depth, colour, width = 8 * array.dtype.itemsize, _RGB if array.shape[0] == 3 else _GRAY, array.shape[2]
    else:
        data = array.reshape(-1).view(np.uint8) if array.nbytes else np.zeros(1, np.uint8)
        rows = data.reshape(_row_count(array.shape, array.nbytes), -1)
        depth, colour, width = 8, _GRAY, rows.shape[1]
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, rows.shape[0], depth, colour, 0, 0, 0)
    note = repr((array.dtype.str, array.shape)).encode()
    packed = zlib.compress(filtered.data, _LEVEL)
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", head), _chunk(b"dpEN", note), _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    )


def decode(data: memoryview | bytes) -> Array:
    """The array in a PNG that ``encode`` made. Raises IntegrityError for anything else."""
    parts = list(_chunks(memoryview(data)))
    if [name for name, _ in parts] != [b"IHDR", b"dpEN", b"IDAT", b"IEND"] or len(parts[0][1]) != 13:
        raise IntegrityError("it is not a PNG of this cache")
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", parts[0][1])
    dtype, shape = _note(bytes(parts[1][1]))
    picture = is_image(dtype, shape)
    if picture:
        row = shape[2] * shape[0] * dtype.itemsize
        wanted = (shape[2], shape[1], 8 * dtype.itemsize, _RGB if shape[0] == 3 else _GRAY)
    else:
        size = nbytes(dtype, shape)
        rows = _row_count(shape, size)
        row = max(1, size // rows)
        wanted = (row, rows, 8, _GRAY)
    if (width, height, depth, colour) != wanted or any(rest):
        raise IntegrityError("its size is not that of its array")
    filtered = _inflate(parts[2][1], height * (row + 1)).reshape(height, row + 1)
    if (filtered[:, 0] != _UP).any():
        raise IntegrityError("its rows have another filter")
    # NumPy adds along the long axis of a row: one pass over the image
    rows_out = np.cumsum(filtered[:, 1:], axis=0, dtype=np.uint8)
    if not picture:
        return rows_out.reshape(-1)[: nbytes(dtype, shape)].view(dtype).reshape(shape)
    samples = rows_out.view(dtype).reshape(shape[1], shape[2], shape[0])
    planar = np.ascontiguousarray(samples.transpose(2, 0, 1))
    return planar.byteswap(inplace=True) if dtype.itemsize == 2 else planar


def _row_count(shape: tuple[int, ...], size: int) -> int:
    return shape[0] if len(shape) > 1 and size else 1


def _note(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        name, shape = ast.literal_eval(data.decode("ascii"))
        dtype, shape = plain(name, shape)
        if data != repr((dtype.str, shape)).encode():
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise IntegrityError("its note of dtype and shape is damaged") from None
    return dtype, shape


def _inflate(data: memoryview, size: int) -> np.ndarray[Any, Any]:
    if size > _MOST_RATIO * len(data) + 64:
        raise IntegrityError(f"it claims {size} bytes, more than its {len(data)} can hold")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise IntegrityError(f"its data is damaged: {error}") from None
    if len(found) != size or not stream.eof or stream.unused_data:
        raise IntegrityError(f"it holds {len(found)} bytes, not {size}")
    return np.frombuffer(found, np.uint8)


def _chunk(name: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(name))
    return len(data).to_bytes(4, "big") + name + data + check.to_bytes(4, "big")


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    if data[:8] != _SIGNATURE:
        raise IntegrityError("it is not a PNG")
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name, body = bytes(data[at + 4 : at + 8]), data[at + 8 : at + 8 + length]
        check = data[at + 8 + length : at + 12 + length]
        if zlib.crc32(body, zlib.crc32(name)).to_bytes(4, "big") != check:
            raise IntegrityError("a chunk of it is damaged")
        yield name, body
        at += 12 + length
