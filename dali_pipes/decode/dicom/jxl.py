"""The size of a JPEG XL image (ISO/IEC 18181-1, SizeHeader), read before its decoder allocates anything."""

from __future__ import annotations

from dali_pipes.errors import DecodeError, TruncatedError

_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def read_jxl_size(frame: bytes) -> tuple[int, int]:
    """(rows, columns) of a bare codestream, or of one in the box format; raises DecodeError, TruncatedError."""
    if frame[:2] == b"\xff\x0a":
        at = 2
    elif frame[4:8] == b"JXL ":
        box = next((name for name in (b"jxlc", b"jxlp") if name in frame), None)
        at = -1 if box is None else frame.find(b"\xff\x0a", frame.find(box)) + 2
        if at < 2:
            raise DecodeError("the JPEG XL frame holds no codestream")
    else:
        raise DecodeError("the frame is not JPEG XL")
    if len(frame) < at + 10:
        raise TruncatedError("the JPEG XL frame ends in its header")
    bits = int.from_bytes(frame[at : at + 10], "little")
    small, bits = bits & 1, bits >> 1
    rows, bits = _dimension(bits, small)
    ratio, bits = bits & 7, bits >> 3
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return rows, rows * across // down
    return rows, _dimension(bits, small)[0]


def _dimension(bits: int, small: int) -> tuple[int, int]:
    """Return a height or width, and the bits after it.

    It is 5 bits in units of 8, or a 2-bit choice of 9, 13, 18 or 30 bits.
    """
    if small:
        return ((bits & 31) + 1) * 8, bits >> 5
    width, bits = _BITS[bits & 3], bits >> 2
    return (bits & ((1 << width) - 1)) + 1, bits >> width
