"""What the headers of a JPEG stream say (ITU-T T.81 Annex B), read without decoding."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from dali_pipes.errors import DecodeError, LimitError, TruncatedError

# Start-of-frame markers: all of C0..CF but DHT (C4), JPG (C8) and DAC (CC).
SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # TEM, RSTn and SOI carry no length
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # fill bytes, and what is no marker, lie before it
_TURBO_SAMPLING = {(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)}
_MOST_SEGMENTS = 10_000  # a large ICC profile has 255
_MOST_SCANNED = 1 << 32
"""Pixels in all scans of an image: libjpeg goes over the whole image at each, and a scan can be ten bytes long."""
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # what ends the data of a scan


@dataclass(frozen=True)
class Segment:
    """One marker with a length.

    at: where its 0xFF is; body: what follows its length; stray: bytes that belong to no marker lie before it.
    """

    code: int
    at: int
    body: bytes
    stray: bool


@dataclass(frozen=True)
class JpegHeader:
    """One JPEG image's frame header and the application markers that decide its colours.

    sof: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless, 0xC9 and 0xCA arithmetic, 0xF7 JPEG-LS.
    ids, sampling: per component, its identifier and (horizontal, vertical) factors.
    adobe: the transform flag of an Adobe marker (0 none, 1 YCbCr, 2 YCCK), or None. orientation: EXIF's, or 1.
    scan_at: where the first scan's marker is. ended: an end marker follows it. stray: bytes that belong to no marker
    lie between the headers. in_scan: how many components the first scan holds.
    """

    sof: int
    precision: int
    height: int
    width: int
    ids: tuple[int, ...]
    sampling: tuple[tuple[int, int], ...]
    adobe: int | None
    jfif: bool
    orientation: int
    scan_at: int
    ended: bool
    stray: bool
    in_scan: int

    @property
    def components(self) -> int:
        """How many samples a pixel has."""
        return len(self.ids)

    @property
    def is_odd(self) -> bool:
        """The three or four components are sampled in a way that TurboJPEG does not take.

        A fourth, black, must be sampled as the first.
        """
        first, chroma, black = self.sampling[0], self.sampling[1:3], self.sampling[3:]
        return first not in _TURBO_SAMPLING or set(chroma) != {(1, 1)} or any(other != first for other in black)

    @property
    def coefficient_bytes(self) -> int:
        """How many bytes a pixel libjpeg keeps until the last scan: none where the first scan is the only one."""
        whole = self.sof not in (0xC2, 0xCA) and self.in_scan >= self.components
        return 0 if whole else 2 * self.components

    @property
    def is_ycc(self) -> bool:
        """Whether libjpeg takes the three components for YCbCr (the rule of its `default_decompress_parms`)."""
        if self.components != 3:
            return False
        if self.jfif:
            return True
        if self.adobe is not None:
            return self.adobe != 0
        return self.ids != (ord("R"), ord("G"), ord("B"))


_last = threading.local()
_REMEMBERED = 4 * 2**20
"""Bytes of the largest file that a thread remembers."""


def segments(data: bytes | memoryview) -> Iterator[Segment]:
    """Yield the markers after SOI up to the first scan, which is the last one yielded.

    Bytes that belong to no marker are passed over, as libjpeg does. Raises TruncatedError where the data ends first,
    DecodeError for more markers than any writer makes.
    """
    size, at, count = len(data), 2, 0
    while True:
        found = _MARKER.search(data, at)
        if found is None or found.start() + 4 > size:
            raise TruncatedError(f"JPEG headers end at byte {size}, before the image's first scan")
        begin = found.start()
        stray = bytes(data[at:begin]).strip(b"\xff") != b""
        code = data[begin + 1]
        count += 1
        if count > _MOST_SEGMENTS:
            raise DecodeError(f"JPEG headers of more than {_MOST_SEGMENTS} markers are not read")
        if code in _ALONE:
            at = begin + 2
            continue
        (length,) = struct.unpack_from(">H", data, begin + 2)
        at = begin + 2 + length
        if length < 2 or at > size:
            raise TruncatedError(f"JPEG headers end inside the marker 0xFF{code:02X} at byte {begin}")
        yield Segment(code, begin, bytes(data[begin + 4 : at]), stray)
        if code == 0xDA:
            return


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader:
    """Read the markers up to the first scan of a stream that starts with SOI.

    Each thread remembers the last bytes that it was asked about: to identify, to decode and to check a file its header
    is read once. Raises TruncatedError where the data ends first, DecodeError where they are not JPEG markers.
    """
    if not isinstance(data, bytes) or len(data) > _REMEMBERED:
        return _read(data)
    last, header = getattr(_last, "read", (None, None))
    if last is not data or header is None:
        header = _read(data)
        _last.read = (data, header)
    return header


def _read(data: bytes | memoryview) -> JpegHeader:
    frame: tuple[int, int, int, int, tuple[int, ...], tuple[tuple[int, int], ...]] | None = None
    adobe, jfif, orientation, stray = None, False, 1, False
    for part in segments(data):
        code, body = part.code, part.body
        stray = stray or part.stray
        if code in SOF or code == 0xF7:
            frame = (code, *_frame_header(body))
        elif code == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif code == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = _orientation(body[6:])
        elif code == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif code == 0xD9:
            raise TruncatedError("JPEG ends before its first scan")
        elif code == 0xDA:
            break
    if frame is None:
        raise DecodeError("JPEG has a scan but no frame header")
    in_scan = part.body[0] if part.body else 0
    return JpegHeader(*frame, adobe, jfif, orientation, part.at, _rfind_end(data, part.at), stray, in_scan)


def check_scans(data: bytes | memoryview) -> None:
    """Raise LimitError where a stream has so many scans that going over its image at each would take minutes."""
    header = read_jpeg_header(data)
    most = _MOST_SCANNED // max(1, header.height * header.width)
    plain = bytes(data)
    if plain.count(b"\xff\xda", header.scan_at) <= most:  # as good as always
        return
    at, scans = header.scan_at, 0
    while scans <= most:
        scans += plain[at + 1] == 0xDA
        length = 0 if plain[at + 1] in _ALONE else int.from_bytes(plain[at + 2 : at + 4], "big")
        found = _NEXT.search(plain, at + 2 + length)
        if found is None or found[0] == b"\xff\xd9":  # files that follow the end marker do not count
            return
        at = found.start()
    raise LimitError(
        f"the JPEG of {header.height} x {header.width} has more than {most} scans; at most {_MOST_SCANNED} pixels are "
        "decoded in all scans together"
    )


def _frame_header(body: bytes) -> tuple[int, int, int, tuple[int, ...], tuple[tuple[int, int], ...]]:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise DecodeError("JPEG frame header is too short for its components")
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    return precision, height, width, tuple(p[0] for p in parts), tuple((p[1] >> 4, p[1] & 15) for p in parts)


def _rfind_end(data: bytes | memoryview, start: int) -> bool:
    """Whether an end marker follows `start`; looks from the end of the data, where it nearly always is."""
    size, step = len(data), 64
    stop = size
    while stop > start:
        begin = max(start, stop - step)
        if b"\xff\xd9" in bytes(data[begin : min(size, stop + 1)]):
            return True
        stop, step = begin, 1 << 16
    return False


def _orientation(tiff: bytes) -> int:
    """EXIF tag 0x0112 of the first directory, or 1 where it can't be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, entry)
        if tag == 0x0112 and kind == 3:
            return int(struct.unpack_from(order + "H", tiff, entry + 8)[0])
    return 1
