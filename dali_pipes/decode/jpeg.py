"""JPEG photos to pixels: libjpeg-turbo with its accurate integer DCT ("islow") and smooth ("fancy") chroma upsampling.

simplejpeg is canonical for what its TurboJPEG interface takes; CMYK, YCCK and odd samplings go through Pillow, whose
CMYK is canonical. The result equals Pillow's `Image.open(...).convert("RGB")`, or `.convert("L")` of that for one
channel. As there, EXIF orientation is not applied. Data that ends early raises TruncatedError and damaged data
DecodeError: never an image that is gray from some row on.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipes.decode.jpegheader import JpegHeader, check_scans, read_jpeg_header
from dali_pipes.decode.jpegstrict import decode_strictly
from dali_pipes.decode.luma import luma
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.errors import DecodeError, TruncatedError, UnsupportedError

_MORE = bytes(range(17, 117))  # coded data of nothing in particular
_FRAMES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC9: "extended arithmetic",
    0xCA: "progressive arithmetic",
}


def jpeg_tag(data: bytes | memoryview) -> str:
    """Return the tag of a JPEG.

    "jpeg" (simplejpeg, and DALI gives the same bits), "jpegturb" (simplejpeg only), "jpegcmyk" or "jpegpil".
    """
    header = read_jpeg_header(data)
    if header.sof not in _FRAMES or header.precision != 8:
        raise UnsupportedError(
            f"JPEG of {header.precision} bits, frame type 0xFF{header.sof:02X}: outside DICOM only 8-bit "
            f"{', '.join(_FRAMES.values())} JPEG are read; convert it, for example to PNG"
        )
    if header.components == 4:
        return "jpegpil" if header.is_odd else "jpegcmyk"
    if header.components == 1:
        return "jpeg" if _plain(header) else "jpegturb"
    if header.components != 3 or header.is_odd:
        return "jpegpil"
    return "jpeg" if _plain(header) else "jpegturb"


def _plain(header: JpegHeader) -> bool:
    """DALI's CPU decoder surely gives libjpeg-turbo's bits.

    Huffman coded, YCbCr by every rule, upright, and complete.
    """
    ycc = header.components == 1 or (
        header.is_ycc and header.adobe in (None, 1) and (header.jfif or header.ids == (1, 2, 3))
    )
    return header.sof in (0xC0, 0xC1, 0xC2) and ycc and header.orientation == 1 and header.ended and not header.stray


@dataclass(frozen=True)
class Reader:
    """Gives uint8[H, W, 3], or [H, W, 1] where the JPEG is gray.

    peak: bytes a pixel that it takes at most, besides the coefficients of a JPEG of several scans.
    """

    read: Callable[[bytes | memoryview, JpegHeader], NDArray[np.uint8]]
    peak: int


def decode_photo(reader: Reader, data: bytes | memoryview, frame: int, policy: DecodePolicy) -> Decoded:
    """Return the pixels of a whole JPEG file, uint8 or uint16 [H, W, C]; C is 1 for gray ones, else policy.channels.

    Raises LimitError, TruncatedError (no end marker, or too little data before it) and DecodeError (damaged data).
    """
    if frame != 0:
        raise DecodeError(f"frame {frame} was asked for; a JPEG file has one")
    header = read_jpeg_header(data)
    peak = reader.peak + header.coefficient_bytes + (6 if policy.depth == 16 else 0)
    policy.limits.check_frame(header.height, header.width, peak)
    if not header.ended:
        raise TruncatedError("JPEG has no end marker: the file is cut short")
    pixels = reader.read(data, header)
    if pixels.shape[:2] != (header.height, header.width):
        raise DecodeError(f"JPEG decoded to {pixels.shape[:2]}, its header says {(header.height, header.width)}")
    if pixels.shape[2] == 3 and policy.channels == 1:
        pixels = luma(pixels)
    if policy.depth == 8:
        return Decoded(pixels)
    return Decoded(pixels * np.uint16(257), {"source": "raster", "windowed": False})


def _by_turbojpeg(data: bytes | memoryview, header: JpegHeader) -> NDArray[np.uint8]:
    return decode_strictly(data, "GRAY" if header.components == 1 else "RGB")


def _by_pillow_watched(data: bytes | memoryview, header: JpegHeader) -> NDArray[np.uint8]:
    """CMYK and YCCK by Pillow, which drops libjpeg's warnings, after TurboJPEG has looked for them."""
    decode_strictly(data, "CMYK", small=True)
    return pillow_rgb(data)


def _by_pillow(data: bytes | memoryview, header: JpegHeader) -> NDArray[np.uint8]:
    """Odd samplings, which TurboJPEG does not take, so that libjpeg's warnings are not to be had.

    Data that is cut short is noticed all the same: more data before the end marker changes what comes out.
    """
    return pillow_whole(data)


def check_jpeg(data: bytes | memoryview, policy: DecodePolicy) -> None:
    """Raise what decoding raises for a JPEG with the tag "jpeg", in less than half of its time.

    All coefficients are read, but only an eighth of the size is computed. This is for decoders that make gray areas of
    damage, as DALI's does.
    """
    header = read_jpeg_header(data)
    policy.limits.check_file(len(data))
    policy.limits.check_frame(header.height, header.width, 3 + header.coefficient_bytes)
    if not header.ended:
        raise TruncatedError("JPEG has no end marker: the file is cut short")
    decode_strictly(data, "GRAY", small=True)


def pillow_whole(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Return `pillow_rgb`; raise TruncatedError where the data ends before the image does, end marker or not."""
    pixels, plain = pillow_rgb(data), bytes(data)
    end = plain.rfind(b"\xff\xd9")
    if not np.array_equal(pixels, pillow_rgb(plain[:end] + _MORE + plain[end:])):
        raise TruncatedError("JPEG data is cut short: what stands before its end marker is less than the image needs")
    return pixels


def pillow_rgb(data: bytes | memoryview) -> NDArray[np.uint8]:
    """uint8[H, W, 3] by Pillow (uint8[H, W, 1] where the JPEG is gray)."""
    check_scans(data)
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            converted = image if image.mode == "L" else image.convert("RGB")
            pixels = np.array(converted)
    except (OSError, SyntaxError, ValueError) as error:
        kind = TruncatedError if "truncated" in str(error) else DecodeError
        raise kind(f"Pillow could not decode the JPEG: {error}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


by_turbojpeg = Reader(_by_turbojpeg, 4)
by_pillow_watched = Reader(_by_pillow_watched, 15)
by_pillow = Reader(_by_pillow, 15)
