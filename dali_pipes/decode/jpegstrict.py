"""JPEG of 8 bits by libjpeg-turbo, with every warning of libjpeg that means wrong pixels as an error.

libjpeg repairs damage: where data is missing it goes on with zeros, where bytes are left over it skips them, and says
so in a warning, which most wrappers drop. simplejpeg (TurboJPEG) turns the first warning of a stream into an error. A
warning about the headers changes no pixel, but would hide a later one; so a stream that gives one is decoded again
with clean headers, where every warning left is about the image's own data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from simplejpeg import _jpeg as _turbojpeg

from dali_pipes.decode.jpegheader import SOF, check_scans, read_jpeg_header, segments
from dali_pipes.errors import DecodeError, TruncatedError

# Warnings that may be about the headers only. "Extraneous bytes" may also lie behind a scan, where they are lost data.
_OF_HEADERS = (
    "extraneous bytes before marker",
    "unknown Adobe color transform",
    "unknown JFIF revision",
    "bad ICC marker",
    "Invalid SOS parameters for sequential JPEG",
)
_KEPT = SOF | {0xC4, 0xCC, 0xDB, 0xDD}  # frame, Huffman and arithmetic tables, quantisation, restart interval
_UNTRANSFORMED = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # an Adobe marker with the transform 0


def decode_strictly(data: bytes | memoryview, space: str, *, small: bool = False) -> NDArray[np.uint8]:
    """Return uint8[H, W, C] of a JPEG stream.

    space: "RGB", "GRAY" or "CMYK". small: an eighth of the size, which reads all of the data in less than half of the
    time.

    Raises TruncatedError or DecodeError wherever libjpeg had to invent pixels, and LimitError for too many scans.
    """
    check_scans(data)
    least = int(small)  # of both sides; 0 asks for the full size
    try:
        return np.ascontiguousarray(_turbojpeg.decode_jpeg(data, space, min_height=least, min_width=least))
    except ValueError as error:
        if not any(text in str(error) for text in _OF_HEADERS):
            raise _damage(error) from None
    try:
        return np.ascontiguousarray(_turbojpeg.decode_jpeg(cleaned(data), space, min_height=least, min_width=least))
    except ValueError as error:
        raise _damage(error) from None


def _damage(error: ValueError) -> DecodeError:
    kind = TruncatedError if "remature end" in str(error) else DecodeError
    return kind(f"JPEG data is {'cut short' if kind is TruncatedError else 'damaged'}: {error}")


def cleaned(data: bytes | memoryview, precision: int | None = None, *, as_stored: bool = False) -> bytes:
    """Return the stream with those headers alone that decide about pixels, and with values that libjpeg knows.

    as_stored: say that no colour transform was applied, so that the components come out as they are.

    precision: what the frame header shall say instead. It changes how coefficients and differences become samples, but
    not how they are read: a stream of 12 or 16 bits that says 8 can be looked through by a decoder of 8 bits.
    """
    header = read_jpeg_header(data)
    out, at, known = (
        bytearray(b"\xff\xd8" + (_UNTRANSFORMED if as_stored else b"")),
        0,
        2 if header.components == 4 else 1,
    )  # Adobe's flag: YCCK or YCbCr
    for part in segments(data):
        at, body = part.at + 4 + len(part.body), part.body
        if part.code in SOF:
            body = body if precision is None else bytes([precision]) + body[1:]
        elif part.code in (0xE0, 0xEE) and as_stored:
            continue
        elif part.code == 0xE0 and body[:5] == b"JFIF\0":
            body = b"JFIF\0\1\1\0\0\1\0\1\0\0"
        elif part.code == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            body = body[:11] + bytes([known if body[11] else 0])
        elif part.code == 0xDA:
            body = _scan(body, header.sof, precision)
        elif part.code not in _KEPT:
            continue
        out += bytes([0xFF, part.code]) + (len(body) + 2).to_bytes(2, "big") + body
    return bytes(out) + bytes(data[at:])


def _scan(body: bytes, sof: int, precision: int | None) -> bytes:
    """Return the body of a scan header with the values that libjpeg allows.

    Where scans hold whole blocks its last three bytes have one value only. A lossless scan keeps its predictor, but no
    point transform under another precision.
    """
    if sof in (0xC0, 0xC1, 0xC9):
        return body[:-3] + b"\0\x3f\0"
    return body[:-1] + b"\0" if sof == 0xC3 and precision is not None else body
