"""Is it DICOM, and in which transfer syntax.

The preamble and group 0002 (PS3.10 7.1), read by hand without touching the rest.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.decode.dicom.syntaxes import BY_UID, Syntax
from dali_pipes.errors import DecodeError, TruncatedError, UnsupportedError

_LONG = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT", b"SV", b"UV"))
_VRS = _LONG | frozenset(
    v.encode()
    for v in [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FL",
        "FD",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ]
)
_ODD = re.compile("[^0-9.]")
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


@dataclass(frozen=True)
class Meta:
    """Where the data set begins, and how it is written."""

    start: int
    syntax: Syntax


def is_dicom(path: str | os.PathLike[str], without_preamble: bool = False) -> bool:
    """Whether the file holds "DICM" at byte 128, or, when asked, begins like a data set without preamble.

    Raises OSError.
    """
    with Path(path).open("rb") as file:
        return looks_like_dicom(file.read(160), without_preamble)


def looks_like_dicom(data: bytes | memoryview, without_preamble: bool = False) -> bool:
    """`is_dicom` for bytes; the first 160 are enough."""
    head = bytes(data[:160])
    return head[128:132] == b"DICM" or (without_preamble and _guess(head) is not None)


def transfer_syntax(data: bytes | memoryview) -> str:
    """Return the transfer syntax UID; raise TruncatedError or DecodeError."""
    return _locate(data)[1]


def read_meta(data: bytes | memoryview) -> Meta:
    """Return where the data set begins, and its transfer syntax.

    Raises TruncatedError, DecodeError, or UnsupportedError for a syntax that the standard does not give to images.
    """
    start, uid = _locate(data)
    if uid not in BY_UID:
        raise UnsupportedError(f"DICOM transfer syntax {uid!r} is not one that the standard gives to images")
    return Meta(start, BY_UID[uid])


def _locate(data: bytes | memoryview) -> tuple[int, str]:
    head = bytes(data[:160])
    at = 132 if head[128:132] == b"DICM" else 0
    if at == 0 and _guess(head) is None:
        raise DecodeError("not a DICOM file: no DICM at byte 128, and it does not begin like a data set")
    uid = ""
    while bytes(data[at : at + 2]) == b"\x02\x00":  # group 0002 is always explicit VR little endian
        if at + 8 > len(data):
            raise TruncatedError("the DICOM file ends inside its meta information")
        element, vr = struct.unpack_from("<H2s", data, at + 2)
        if vr in _LONG:
            if at + 12 > len(data):
                raise TruncatedError("the DICOM file ends inside its meta information")
            value, length = at + 12, struct.unpack_from("<I", data, at + 8)[0]
        else:
            value, length = at + 8, struct.unpack_from("<H", data, at + 6)[0]
        if value + length > len(data):
            raise TruncatedError("the DICOM file ends inside its meta information")
        if element == 0x0010:
            uid = bytes(data[value : value + length]).rstrip(b"\0 ").decode("ascii", "replace")
            uid = _ODD.sub("?", uid[:64])  # it is quoted in errors: nothing but a UID may pass
        at = value + length
    if not uid:  # PS3.10 demands it; files without are read as what they look like
        uid = _guess(bytes(data[at : at + 160])) or _IMPLICIT
    return at, uid


def _guess(head: bytes) -> str | None:
    """Return the uncompressed transfer syntax of bytes that begin with an element of group 0002 or 0008, else None."""
    if len(head) < 8:
        return None
    for order, explicit in (("<", _EXPLICIT), (">", _BIG)):
        group, element, length = struct.unpack_from(order + "HHI", head)
        if group not in (2, 8) or element > 0x3000:
            continue
        if head[4:6] in _VRS:
            return explicit
        if order == "<" and group == 8 and length < 4096:
            return _IMPLICIT
    return None
