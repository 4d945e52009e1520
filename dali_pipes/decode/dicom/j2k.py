"""JPEG 2000 codestreams: their main header (ITU-T T.800 Annex A), and decoding at a lower resolution."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from dali_pipes.decode.dicom.header import Header
from dali_pipes.errors import DecodeError, TruncatedError

REDUCIBLE = ("jpeg-2000", "htj2k")
_SIZ, _COD, _SOT = 0xFF51, 0xFF52, 0xFF90


@dataclass(frozen=True)
class J2kHeader:
    """precision, signed: of the first component.

    transformed: a colour transform (RCT or ICT) will give RGB back. levels: how many times the size can be halved.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    transformed: bool
    levels: int

    def check(self, rows: int, columns: int, samples: int) -> None:
        """Raise DecodeError where the DICOM header gives another size, before anything of that size is allocated."""
        if (self.rows, self.columns, self.components) != (rows, columns, samples):
            raise DecodeError(
                f"the JPEG 2000 frame is {self.rows} x {self.columns} x {self.components}, "
                f"the DICOM header says {rows} x {columns} x {samples}"
            )

    def reduction(self, height: int, width: int) -> int:
        """Return the most halvings that leave at least height x width, 0 if there are none; sizes are rounded up."""
        best = 0
        for level in range(1, self.levels + 1):
            if -(-self.rows >> level) >= height and -(-self.columns >> level) >= width:
                best = level
        return best


def read_j2k_header(frame: bytes) -> J2kHeader:
    """Of a codestream, or of one inside a JP2 file (not allowed in DICOM, but seen).

    Raises TruncatedError, DecodeError.
    """
    at = 0 if frame[:2] == b"\xff\x4f" else frame.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise DecodeError("the frame is not JPEG 2000: it holds no codestream")
    at += 2
    size: tuple[int, int, int, int] | None = None
    coding = (False, 0)
    while True:
        if at + 4 > len(frame):
            raise TruncatedError("the JPEG 2000 frame ends inside its main header")
        marker, length = struct.unpack_from(">HH", frame, at)
        body = frame[at + 4 : at + 2 + length]
        if marker == _SOT:
            break
        if marker < 0xFF00 or len(body) < length - 2:
            raise TruncatedError("the JPEG 2000 frame ends inside its main header, or the header is damaged")
        if marker == _SIZ and len(body) >= 37:
            columns, rows, left, top = struct.unpack_from(">4I", body, 2)
            (count,) = struct.unpack_from(">H", body, 34)
            size = (rows - top, columns - left, count, body[36])
        elif marker == _COD and len(body) >= 6:
            coding = (body[4] == 1, body[5])
        at += 2 + length
    if size is None:
        raise DecodeError("the JPEG 2000 frame has no size marker")
    depth = size[3]
    return J2kHeader(size[0], size[1], size[2], (depth & 0x7F) + 1, bool(depth >> 7), *coding)


def decode_reduced(frame: bytes, told: J2kHeader, level: int, header: Header) -> NDArray[Any]:
    """[rows, columns, samples] of two's complement codes at 1 / 2**level of the size, by Pillow's OpenJPEG.

    Pillow moves signed values up by half the range and shifts values to the top of 8 or 16 bits (Jpeg2KDecode.c); both
    are undone. The sign must be the header's: averages of values that wrap round are none of the image's. Damage beyond
    what these levels hold is not noticed.
    """
    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as image:
            image.reduce = level  # type: ignore[method-assign, assignment]
            array: NDArray[Any] = np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged streams; its messages may hold addresses
        raise DecodeError(f"Pillow could not decode the reduced JPEG 2000 frame: {type(error).__name__}") from None
    width = 8 if told.precision <= 8 else 16
    array = array.astype(np.dtype(f"u{width // 8}"), copy=False) >> (width - told.precision)
    if told.signed:
        array ^= array.dtype.type(1 << (told.precision - 1))
    return array.reshape(*array.shape[:2], header.samples)


def reduced_version() -> str:
    """Name and version of the decoder behind `decode_reduced`."""
    return f"Pillow {PIL.__version__} openjpeg {features.version('jpg_2000')} reduced"
