"""The attributes that decide about pixels, read without pixels and without anything about the patient.

The data set is read up to the pixel data element, which is not touched. The values are checked here: what the standard
demands (PS3.3 C.7.6.3), what the file's length allows, and the caller's limits.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from dali_pipes.decode.dicom.elements import UNDEFINED, Coding, Elements
from dali_pipes.decode.dicom.meta import read_meta
from dali_pipes.decode.dicom.syntaxes import Syntax
from dali_pipes.decode.dicom.values import text, whole
from dali_pipes.decode.limits import Limits
from dali_pipes.errors import DecodeError, LimitError, NoImageError, TruncatedError, UnsupportedError

PIXEL_TAGS = {0x7FE00008: "Float Pixel Data", 0x7FE00009: "Double Float Pixel Data", 0x7FE00010: "Pixel Data"}
PHOTOMETRIC = (
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_422",
    "YBR_PARTIAL_420",
    "YBR_ICT",
    "YBR_RCT",
)
_PIECE = 1 << 16


@dataclass(frozen=True)
class Header:
    """One image's description.

    `dataset` holds only what decides about pixels; `pixels_at` and `pixels_length` (None: encapsulated) locate the
    value of `pixel_tag` in `data`.
    """

    syntax: Syntax
    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    stored: int
    high: int
    signed: bool
    frames: int
    pixel_tag: int
    pixel_vr: str
    pixels_at: int
    pixels_length: int | None
    data: bytes | memoryview
    dataset: Elements

    @property
    def is_float(self) -> bool:
        """Whether the pixels are floating-point numbers."""
        return self.pixel_tag != 0x7FE00010


def read_header(data: bytes | memoryview, limits: Limits) -> Header:
    """Read a file's header.

    Raises DecodeError (damaged or without an image), TruncatedError, LimitError, UnsupportedError.
    """
    limits.check_file(len(data))
    meta, most = read_meta(data), limits.elements + len(data) // 64
    syntax, start = meta.syntax, meta.start
    if syntax.deflated:
        data, start = inflate(memoryview(data)[start:], syntax, limits), 0
    dataset, at = _read_elements(data, start, syntax, most)
    tag, vr, value, length = _pixel_element(data, at, syntax)
    return _checked(syntax, dataset, tag, vr, value, length, data, limits)


def inflate(packed: memoryview, syntax: Syntax, limits: Limits) -> memoryview:
    """Return the data set of a deflated file (PS3.5 A.5), up to the end of its pixel data and not a byte further.

    So a bomb of zeros behind a small image costs nothing; pydicom would inflate it all. Raises LimitError, DecodeError.
    """
    machine, plain, want = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), 1 << 16
    at, end, most = 0, None, limits.elements + len(packed) // 64
    rest: bytes | memoryview = b""
    done = False
    while True:
        stop = min(want, limits.inflate_bytes + 1)
        while len(plain) < stop and not done:  # in pieces: zlib copies what it was given and has not read yet
            if not rest:
                rest = packed[at : at + _PIECE]
                at += _PIECE
            try:
                part = machine.decompress(rest, min(stop - len(plain), _PIECE))
            except zlib.error as error:
                raise DecodeError(f"the deflated data set is damaged: {error}") from None
            done = machine.eof or not (part or rest)
            plain += part
            rest = machine.unconsumed_tail
        if end is None:
            end = _end_of_pixels(bytes(plain), syntax, most)
        if max(len(plain), end or 0) > limits.inflate_bytes:
            raise LimitError(f"the deflated data set needs over {limits.inflate_bytes} bytes (Limits.inflate_bytes)")
        if done or (end is not None and len(plain) >= end):
            return memoryview(plain)
        want = end if end is not None else want * 4


def _end_of_pixels(plain: bytes, syntax: Syntax, most: int) -> int | None:
    """Where the pixel data ends, or None where the data set, which may be incomplete, does not tell yet."""
    try:
        _, at = _read_elements(plain, 0, syntax, most)
        _, _, value, length = _pixel_element(plain, at, syntax)
    except LimitError:
        raise
    except DecodeError:
        return None
    return None if length is None else value + length


def _read_elements(data: bytes | memoryview, start: int, syntax: Syntax, most: int) -> tuple[Elements, int]:
    coding = Coding(_implicit(data, start, syntax), syntax.little)
    return Elements.read(data, start, coding, most, frozenset(PIXEL_TAGS))


def _implicit(data: bytes | memoryview, start: int, syntax: Syntax) -> bool:
    """Return whether the elements leave out their VR.

    The first of them shows it, because some writers state another syntax.
    """
    vr = bytes(data[start + 4 : start + 6])
    return not (vr.isalpha() and vr.isupper()) if len(vr) == 2 else syntax.implicit


def _peak(samples: int, allocated: int) -> float:
    """Return how many bytes a pixel takes at the peak of decoding; wide values are worked out one by one as doubles."""
    return 60.0 * samples if allocated > 16 else samples * (2 * max(allocated, 8) / 8 + 1) + 2


def _pixel_element(data: bytes | memoryview, at: int, syntax: Syntax) -> tuple[int, str, int, int | None]:
    order = "<" if syntax.little else ">"
    if at > len(data):
        raise TruncatedError("the DICOM file ends inside an element before its pixel data")
    if at + 8 > len(data):
        raise NoImageError("the DICOM file holds no pixel data")
    group, element = struct.unpack_from(order + "HH", data, at)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        raise NoImageError("the DICOM file holds no pixel data")
    vr = bytes(data[at + 4 : at + 6])
    if vr in (b"OB", b"OW", b"OF", b"OD", b"UN"):
        if at + 12 > len(data):
            raise TruncatedError("the DICOM file ends at its pixel data")
        length, value = struct.unpack_from(order + "I", data, at + 8)[0], at + 12
    else:
        vr, length, value = b"OW", struct.unpack_from(order + "I", data, at + 4)[0], at + 8
    return tag, vr.decode(), value, None if length == UNDEFINED else length


def _checked(
    syntax: Syntax,
    ds: Elements,
    tag: int,
    vr: str,
    value: int,
    length: int | None,
    data: bytes | memoryview,
    limits: Limits,
) -> Header:
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    samples = whole(ds, "SamplesPerPixel", 1)
    frames = whole(ds, "NumberOfFrames", 1) or 1  # 0 and empty are seen for single frames
    floats = {0x7FE00008: 32, 0x7FE00009: 64}.get(tag)
    allocated = floats or whole(ds, "BitsAllocated")
    stored = floats or whole(ds, "BitsStored", allocated)
    high = stored - 1 if floats else whole(ds, "HighBit", stored - 1)
    if rows < 1 or columns < 1:
        raise DecodeError(f"DICOM image of {rows} x {columns}: both must be at least 1 (0028,0010; 0028,0011)")
    if samples not in (1, 3):
        raise UnsupportedError(f"DICOM image of {samples} samples per pixel (0028,0002): 1 and 3 are read")
    if allocated not in (1, 8, 16, 32, *([64] if floats else []), *([] if syntax.encapsulated else [12])):
        raise UnsupportedError(
            f"Bits Allocated (0028,0100) is {allocated}: 1, 8, 16 and 32 are read, and 12 in native pixel data"
        )
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise DecodeError(
            f"Bits Stored {stored} and High Bit {high} do not fit in {allocated} Bits Allocated (0028,0100 to 0102)"
        )
    if frames < 1:
        raise DecodeError(f"Number of Frames (0028,0008) is {frames}: it must be at least 1")
    limits.check_frames(frames)
    limits.check_frame(rows, columns, _peak(samples, allocated))
    default = "MONOCHROME2" if samples == 1 else "RGB"
    photometric = text(ds, "PhotometricInterpretation") or default
    if photometric not in PHOTOMETRIC:
        raise UnsupportedError(
            f"the Photometric Interpretation (0028,0004) is none of those that are read: {', '.join(PHOTOMETRIC)}"
        )
    signed = not floats and whole(ds, "PixelRepresentation", 0) == 1
    if syntax.encapsulated and length is not None:
        raise DecodeError(f"{syntax.name} needs encapsulated pixel data, but it has a defined length")
    if not syntax.encapsulated and length is None:
        raise DecodeError(f"{syntax.name} needs native pixel data, but its length is undefined")
    return Header(
        syntax, rows, columns, samples, photometric, whole(ds, "PlanarConfiguration", 0), allocated, stored, high,
        signed, frames, tag, vr, value, length, data, ds,
    )  # fmt: skip
