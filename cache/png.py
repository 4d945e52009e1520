"""The ``disk`` mode: one PNG an entry, which every viewer opens; lossless for any array.

uint8 and uint16 arrays ``[C, H, W]`` with C of 1 or 3 become gray or RGB images of 8 or 16 bits a sample, H rows by W
columns. Any other array becomes a gray 8-bit image of its bytes: it looks odd and comes back exactly. A private chunk
``dpEN`` after the header holds dtype and shape.

libpng does the work (through imagecodecs, because Pillow has no RGB of 16 bits). It is given the array to fill, whose
size is known from the note and bounded by what deflate can expand, so a header that lies is refused before anything
is decoded. libpng checks every chunk's CRC and the data's own checksum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np

from .base import Array
from .errors import IntegrityError
from .filestore import FileStore, entry_pattern
from .npyformat import nbytes, parse_note, write_note

_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_AFTER_HEADER = 33  # bytes: signature and IHDR
_NOTE = b"dpEN"
_GRAY, _RGB = 0, 2
_LEVEL, _RUNS, _UP = 1, 3, 32  # of zlib; its strategy RLE; each row as the difference to the row above
_MOST_RATIO = 1032  # deflate cannot expand more
_LONGEST = 1_000_000  # rows or columns that libpng takes
_ROW = 1 << 16  # bytes in a row of an array that is no picture, if its own rows are longer


class PngStore(FileStore):
    """See the module."""

    mode = "disk"
    decodes = True
    suffix = ".png"
    pattern = entry_pattern(r"\.png")

    def _encode(self, array: Array) -> Sequence[Any]:
        return encode(array)

    def _decode(self, body: memoryview, fd: int) -> Array:
        return decode(body)


def is_image(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Return whether an array is stored as the picture that it shows."""
    plain = dtype in (np.dtype(np.uint8), np.dtype(np.uint16)) and len(shape) == 3 and shape[0] in (1, 3)
    return plain and min(shape) > 0 and max(shape) <= _LONGEST


def encode(array: Array) -> list[bytes | memoryview]:
    """Return the parts of a PNG of a C-contiguous array."""
    if is_image(array.dtype, array.shape):
        picture = array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    else:
        width, height = _layout(array.shape, array.nbytes)
        picture = np.zeros((height, width), np.uint8)
        picture.reshape(-1)[: array.nbytes] = array.reshape(-1).view(np.uint8) if array.nbytes else 0
    # as much room as deflate may take: imagecodecs alone reserves too little for noise in narrow rows
    room = (picture.nbytes + len(picture)) * 17 // 16 + 4096
    made = memoryview(imagecodecs.png_encode(picture, level=_LEVEL, strategy=_RUNS, filter=_UP, out=room))
    return [made[:_AFTER_HEADER], _note_chunk(array.dtype, array.shape), made[_AFTER_HEADER:]]


def decode(data: memoryview | bytes) -> Array:
    """Return the array in a PNG that ``encode`` made. Raises IntegrityError for anything else."""
    data = memoryview(data)
    dtype, shape = _read_note(data)
    picture = is_image(dtype, shape)
    size = nbytes(dtype, shape)
    if size > _MOST_RATIO * len(data):
        raise IntegrityError(f"it claims {size} bytes, more than its {len(data)} can hold")
    if picture:
        wanted = struct.pack(">IIBB", shape[2], shape[1], 8 * dtype.itemsize, _RGB if shape[0] == 3 else _GRAY)
        out = np.empty((shape[1], shape[2], 3) if shape[0] == 3 else (shape[1], shape[2]), dtype)
    else:
        width, height = _layout(shape, size)
        wanted = struct.pack(">IIBB", width, height, 8, _GRAY)
        out = np.empty((height, width), np.uint8)
    if data[-len(_END) :] != _END:
        raise IntegrityError("its end is missing")
    if data[16:26] != wanted:
        raise IntegrityError("its size is not that of its array")
    _fill(out, data)
    if not picture:
        return out.reshape(-1)[:size].view(dtype).reshape(shape)
    return np.ascontiguousarray(out.transpose(2, 0, 1)) if shape[0] == 3 else out[None]


def _fill(out: Array, data: Any) -> None:
    try:
        imagecodecs.png_decode(data, out=out)
    except MemoryError:
        raise
    except Exception as error:  # imagecodecs raises whatever it meets
        if "memory" in str(error):  # libpng's word for it
            raise MemoryError(str(error)) from error
        raise IntegrityError(f"its data is damaged: {error}") from None


def _layout(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Width and height of the picture of an array's bytes: one row per index of the first axis, if that fits."""
    rows = shape[0] if len(shape) > 1 and size else 1
    width = max(1, size // rows)
    if width > _ROW or rows > _ROW:
        width = _ROW
    return width, max(1, -(-size // width))


def _note_chunk(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    text = write_note(dtype, shape)
    return struct.pack(">I", len(text)) + _NOTE + text + struct.pack(">I", zlib.crc32(text, zlib.crc32(_NOTE)))


def _read_note(data: memoryview) -> tuple[np.dtype[Any], tuple[int, ...]]:
    at = _AFTER_HEADER + 8
    length = int.from_bytes(data[_AFTER_HEADER : _AFTER_HEADER + 4], "big")
    if data[: len(_HEAD)] != _HEAD or data[_AFTER_HEADER + 4 : at] != _NOTE or length > 4096:
        raise IntegrityError("it is not a PNG of this cache")
    dtype, shape = parse_note(bytes(data[at : at + length]))
    if data[_AFTER_HEADER : at + length + 4] != _note_chunk(dtype, shape):
        raise IntegrityError("its note of dtype and shape is damaged")
    return dtype, shape
