"""DICOM bytes written by hand, where pydicom would refuse to write them."""

import struct

import make_images as make


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """An explicit VR little endian element with a 4-byte length."""
    return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value


def header(rows: int = 8, columns: int = 8) -> bytes:
    """An 8-bit Image Pixel module."""
    short = ((0x0002, 1), (0x0010, rows), (0x0011, columns), (0x0100, 8), (0x0101, 8), (0x0102, 7), (0x0103, 0))
    parts = [struct.pack("<HH2sHH", 0x28, n, b"US", 2, value) for n, value in short]
    parts.insert(1, struct.pack("<HH2sH", 0x28, 4, b"CS", 12) + b"MONOCHROME2 ")
    return b"".join(parts)


def file_of(body: bytes, syntax: str = "explicit") -> bytes:
    """Preamble and body."""
    return make.preamble(make.SYNTAX[syntax]) + body
