"""What a file is, by its first bytes; names and extensions are never looked at."""

from __future__ import annotations

from dali_pipes.decode.dicom.meta import looks_like_dicom, transfer_syntax
from dali_pipes.decode.jpeg import jpeg_tag
from dali_pipes.decode.kinds import tag_of_syntax
from dali_pipes.decode.policy import Kind
from dali_pipes.errors import TruncatedError, UnsupportedError

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    *((b"P%d" % n, "pnm") for n in range(1, 7)),
)


def identify(path: object, data: bytes | memoryview) -> Kind:
    """The kind of a whole file, by content (`path` is not looked at: it is here for callers that route by it).

    Raises TruncatedError for an empty file, UnsupportedError for a format that no decoder here reads,
    DecodeError for headers that are damaged.
    """
    if len(data) == 0:
        raise TruncatedError("the file is empty")
    head = bytes(data[:160])
    if head[:3] == b"\xff\xd8\xff":
        return Kind.from_tag(jpeg_tag(data))
    if head[128:132] == b"DICM":
        return Kind.from_tag(tag_of_syntax(transfer_syntax(data)))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind.from_tag("webp")
    for signature, tag in _SIGNATURES:
        if head.startswith(signature):
            return Kind.from_tag(tag)
    if looks_like_dicom(data, without_preamble=True):
        return Kind.from_tag(tag_of_syntax(transfer_syntax(data)))
    raise UnsupportedError(
        f"not an image format that is read here (first bytes {head[:8].hex(' ')}); read are JPEG, PNG, TIFF, WebP, BMP, GIF, PNM and DICOM"
    )
