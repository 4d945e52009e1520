"""What a file is, by its first bytes; names and extensions are never looked at."""

from __future__ import annotations

import os
from pathlib import Path

from dali_pipes.decode.dicom.meta import looks_like_dicom, transfer_syntax
from dali_pipes.decode.jpeg import jpeg_tag
from dali_pipes.decode.kinds import Kind, tag_of_syntax
from dali_pipes.decode.named import damage_named
from dali_pipes.errors import TruncatedError, UnsupportedError

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)
# "BM" and "P6" begin many a text: the size of BMP's second header, and the white space that PNM demands, are looked at
# too.
_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}


def sniff_file(path: str | os.PathLike[str]) -> str | None:
    """Return the format of a file by its first 160 bytes, or None where it is none that is read.

    "jpeg", "dicom", "png" and so on. Raises OSError.
    """
    with Path(path).open("rb") as file:
        return sniff(file.read(160))


def sniff(head: bytes) -> str | None:
    """`sniff_file` for a file's first 160 bytes."""
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "bmp"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#":
        return "pnm"
    for signature, tag in _SIGNATURES:
        if head.startswith(signature):
            return tag
    return "dicom" if looks_like_dicom(head, without_preamble=True) else None


def identify(path: object, data: bytes | memoryview) -> Kind:
    """Return the kind of a whole file, by content.

    `path` is not looked at: it is here for callers that route by it. Raises TruncatedError for an empty file,
    UnsupportedError for a format that no decoder here reads, DecodeError for damaged headers.
    """
    if len(data) == 0:
        raise TruncatedError("the file is empty")
    found = sniff(bytes(data[:160]))
    with damage_named("in the headers"):
        if found == "jpeg":
            return Kind.from_tag(jpeg_tag(data))
        if found == "dicom":
            return Kind.from_tag(tag_of_syntax(transfer_syntax(data)))
    if found is None:
        raise UnsupportedError(
            f"not an image format that is read here (first bytes {bytes(data[:4]).hex(' ')}); "
            "read are JPEG, PNG, TIFF, WebP, BMP, GIF, PNM and DICOM"
        )
    return Kind.from_tag(found)
