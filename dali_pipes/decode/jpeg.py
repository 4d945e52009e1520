"""JPEG photos to pixels: libjpeg-turbo with its accurate integer DCT ("islow") and smooth ("fancy") chroma upsampling.

simplejpeg is canonical for what its TurboJPEG interface takes; CMYK, YCCK and odd samplings go through Pillow, whose
CMYK is canonical. The result equals Pillow's `Image.open(...).convert("RGB")`, or `.convert("L")` of that for one
channel. As there, EXIF orientation is not applied. Data that ends early raises TruncatedError and damaged data
DecodeError: never an image that is gray from some row on.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipes.decode.jpegheader import JpegHeader, read_jpeg_header
from dali_pipes.decode.jpegstrict import decode_strictly
from dali_pipes.decode.luma import luma
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.errors import DecodeError, TruncatedError, UnsupportedError

_FRAMES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC9: "extended arithmetic",
    0xCA: "progressive arithmetic",
}


def jpeg_tag(data: bytes | memoryview) -> str:
    """The tag of a JPEG: "jpeg" (simplejpeg, and DALI gives the same bits), "jpegturb" (simplejpeg only), "jpegcmyk",
    "jpegpil".
    """
    header = read_jpeg_header(data)
    if header.sof not in _FRAMES or header.precision != 8:
        raise UnsupportedError(
            f"JPEG of {header.precision} bits, frame type 0xFF{header.sof:02X}: outside DICOM only 8-bit "
            f"{', '.join(_FRAMES.values())} JPEG are read; convert it, for example to PNG"
        )
    if header.components == 4:
        return "jpegcmyk"
    if header.components == 1:
        return "jpeg" if _plain(header) else "jpegturb"
    if header.components != 3 or header.is_odd:
        return "jpegpil"
    return "jpeg" if _plain(header) else "jpegturb"


def _plain(header: JpegHeader) -> bool:
    """DALI's CPU decoder surely gives libjpeg-turbo's bits: Huffman coded, YCbCr by every rule, upright, and
    complete.
    """
    ycc = header.components == 1 or (
        header.is_ycc and header.adobe in (None, 1) and (header.jfif or header.ids == (1, 2, 3))
    )
    return header.sof in (0xC0, 0xC1, 0xC2) and ycc and header.orientation == 1 and header.ended and not header.stray


def decode_jpeg(data: bytes | memoryview, tag: str, policy: DecodePolicy) -> NDArray[np.uint8]:
    """uint8[H, W, C] of a whole JPEG file; C is 1 for gray JPEGs, else policy.channels.

    Raises LimitError, TruncatedError (no end marker, or too little data before it) and DecodeError (damaged data).
    """
    header = read_jpeg_header(data)
    turbo = tag in ("jpeg", "jpegturb")
    policy.limits.check_frame(header.height, header.width, (4 if turbo else 15) + (6 if policy.depth == 16 else 0))
    if not header.ended:
        raise TruncatedError("JPEG has no end marker: the file is cut short")
    gray = header.components == 1
    pixels = decode_strictly(data, "GRAY" if gray else "RGB") if turbo else _by_pillow(data, tag)
    if pixels.shape[:2] != (header.height, header.width):
        raise DecodeError(f"JPEG decoded to {pixels.shape[:2]}, its header says {(header.height, header.width)}")
    return pixels if gray or policy.channels == 3 else luma(pixels)


def check_jpeg(data: bytes | memoryview, policy: DecodePolicy) -> None:
    """Raises what `decode_jpeg` raises for a JPEG with the tag "jpeg", in less than half of its time: all coefficients
    are read, an eighth of the size is computed. For decoders that make gray areas of damage, as DALI's does.
    """
    header = read_jpeg_header(data)
    policy.limits.check_file(len(data))
    policy.limits.check_frame(header.height, header.width, 3)
    if not header.ended:
        raise TruncatedError("JPEG has no end marker: the file is cut short")
    decode_strictly(data, "GRAY", small=True)


def _by_pillow(data: bytes | memoryview, tag: str) -> NDArray[np.uint8]:
    """The same by Pillow, which drops libjpeg's warnings: they are looked for first, but for odd samplings, which
    TurboJPEG does not take.
    """
    if tag == "jpegcmyk":
        decode_strictly(data, "CMYK", small=True)
    return pillow_rgb(data)


def pillow_rgb(data: bytes | memoryview) -> NDArray[np.uint8]:
    """uint8[H, W, 3] by Pillow (uint8[H, W, 1] where the JPEG is gray)."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            converted = image if image.mode == "L" else image.convert("RGB")
            pixels = np.array(converted)
    except (OSError, SyntaxError, ValueError) as error:
        kind = TruncatedError if "truncated" in str(error) else DecodeError
        raise kind(f"Pillow could not decode the JPEG: {error}") from None
    return pixels.reshape(*pixels.shape[:2], -1)
