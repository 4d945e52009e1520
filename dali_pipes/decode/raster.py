"""PNG, TIFF, WebP, BMP, GIF and PNM through Pillow, chosen by content.

Colour: `convert("RGB")`; alpha is dropped, not composited (the stored colour is kept, as Pillow and torchvision do);
palettes are looked up; one bit becomes 0 and 255. 16 bits are kept: gray at depth 8 goes through the policy's window
where it has one that applies to bare images, else y = floor(x / 257 + 0.5); colour of 16 bits always takes the latter.
At depth 16, 8-bit sources give x * 257. Animated or multi-page files: one frame is read. What Pillow would cut to 8
bits comes from imagecodecs: PNG in RGB, and in gray with alpha; TIFF in RGB. TIFFs are turned upright, as Pillow does,
and 0 is black at every depth.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from dali_pipes.decode.grayscale import Coded, render
from dali_pipes.decode.luma import luma, luma16
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.decode.voi import Window
from dali_pipes.errors import DecodeError, LimitError, TruncatedError, UnsupportedError

PILLOW = {"png": "PNG", "tiff": "TIFF", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "pnm": "PPM"}

logging.getLogger("PIL").setLevel(logging.INFO)  # at DEBUG it logs what each EXIF and TIFF tag holds: names, too

_PEAK, _USUAL_PEAK = (
    {"webp": 22, "png": 15},
    18,
)  # bytes a pixel that Pillow and the conversions here take at their peak
ANIMATED = ("gif", "webp", "png")
_PLANAR_CONFIGURATION = 284
_ASSOCIATED = 1  # of ExtraSamples: colours are multiplied by alpha
# What the Orientation of a TIFF asks for: the same moves as in PIL.ImageOps.exif_transpose.
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def decode_raster(tag: str, data: bytes | memoryview, frame: int, policy: DecodePolicy) -> Decoded:
    """One frame as uint8 or uint16 [H, W, C]; raises LimitError before allocation, TruncatedError, DecodeError."""
    if tag == "png":
        _check_sums(data)
    return under_policy(_read(data, tag, frame, policy), policy)


def under_policy(pixels: NDArray[Any], policy: DecodePolicy) -> Decoded:
    """Bring decoded pixels, uint8 or uint16 [H, W, 1 or 3], to the channels and the depth of a policy."""
    wide_gray = pixels.dtype == np.uint16 and pixels.shape[2] == 1
    if policy.channels == 1 and pixels.shape[2] == 3:
        pixels = luma16(pixels) if pixels.dtype == np.uint16 else luma(pixels)
    if policy.depth == 16:
        wide = pixels if pixels.dtype == np.uint16 else pixels * np.uint16(257)
        return Decoded(np.ascontiguousarray(wide), {"source": "raster", "windowed": wide_gray})
    if pixels.dtype == np.uint16:
        pixels = narrow(pixels, policy.window if wide_gray else None)
    return Decoded(np.ascontiguousarray(pixels))


def _check_sums(data: bytes | memoryview) -> None:
    """Raise DecodeError where the checksum of a PNG's pixel data is wrong, at which Pillow does not look."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        stop = at + 8 + length
        if stop + 4 > len(view):
            return  # Pillow says so
        if kind == b"IDAT" and zlib.crc32(view[at + 4 : stop]) != struct.unpack_from(">I", view, stop)[0]:
            raise DecodeError(f"the png image is damaged: the checksum of its data at byte {at} is wrong")
        at = stop + 4


def narrow(pixels: NDArray[np.uint16], window: Window | None) -> NDArray[np.uint8]:
    """uint16 to uint8 of the same shape: by the window, or over the whole range (floor(x / 257 + 0.5)) for None."""
    image = Coded(pixels.reshape(pixels.shape[0], -1), np.arange(65536, dtype=np.float64))
    return render(image, window)[0].reshape(pixels.shape)


def _read(data: bytes | memoryview, tag: str, frame: int, policy: DecodePolicy) -> NDArray[Any]:
    try:
        with Image.open(io.BytesIO(data), formats=[PILLOW[tag]]) as image:
            peak = _PEAK.get(tag, _USUAL_PEAK)
            policy.limits.check_frame(image.height, image.width, peak)
            policy.limits.check_page(frame, image.height * image.width, animated=tag in ANIMATED)
            seek(image, tag, frame, data)
            deep = _is_deep(image, data, frame)
            policy.limits.check_frame(image.height, image.width, peak)  # pages may differ in size
            if not deep:
                return _pixels(image)
            return _deep_png(data) if tag == "png" else _deep_tiff(data, cast(TiffImageFile, image), frame)
    except Image.DecompressionBombError as error:
        raise LimitError(f"{tag} image: {error}") from None
    except UnidentifiedImageError:
        raise DecodeError(
            f"Pillow does not know the {tag} image: its headers are damaged, or it is of a kind that is not read"
        ) from None
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError) as error:
        text = str(error).lower()
        if any(word in text for word in ("unsupported", "not supported", "not implemented")):
            raise UnsupportedError(f"the {tag} image is of a kind that is not read: {error}") from None
        cut = any(word in text for word in ("truncated", "unexpected end", "not enough data", "eof"))
        said = type(error).__name__ if tag == "pnm" else error  # of a PNM's header, which is text, Pillow quotes words
        raise (TruncatedError if cut else DecodeError)(f"could not decode the {tag} image: {said}") from None


def seek(image: Image.Image, tag: str, frame: int, data: bytes | memoryview) -> None:
    """Go to a page without counting them all, which walks through a whole TIFF.

    Raises:
        DecodeError: there is no such page.
    """
    if frame < 0:
        raise DecodeError(f"frame {frame} was asked for; frames count from 0")
    try:
        image.seek(frame)
    except EOFError:
        with Image.open(io.BytesIO(data), formats=[PILLOW[tag]]) as again:  # the other one miscounts from now on
            there = getattr(again, "n_frames", 1)
        raise DecodeError(f"frame {frame} was asked for; the {tag} image has {there}, counted from 0") from None


def _pixels(image: Image.Image) -> NDArray[Any]:
    """uint8 or uint16 [H, W, 1 or 3] of the current frame."""
    if image.mode.startswith("I"):
        wide = np.array(image)
        if wide.dtype.kind not in "iu" or wide.min() < 0 or wide.max() > 65535:
            raise UnsupportedError("the image holds values outside 0..65535; store it as 16-bit gray or as DICOM")
        words = wide.astype(np.uint16)[..., None]
        return 65535 - words if _white_is_zero(image) else words
    if image.mode == "F":
        raise UnsupportedError(
            "the image holds floating-point values, whose full scale is not known; store it as 16-bit gray"
        )
    gray = image.mode in ("1", "L", "LA", "La")
    pixels = np.array(image.convert("L" if gray else "RGB"))
    return pixels[..., None] if gray else pixels


def _white_is_zero(image: Image.Image) -> bool:
    """Whether it is a TIFF whose 0 is white, which Pillow inverts at 8 bits, but not at 16."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0


def _is_deep(image: Image.Image, data: bytes | memoryview, frame: int) -> bool:
    """Whether it is colour, or gray with alpha, of 16 bits that Pillow would cut to 8."""
    if image.format == "PNG":
        return frame == 0 and data[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06")
    if not isinstance(image, TiffImageFile) or image.mode not in ("RGB", "RGBA", "RGBX"):
        return False
    return set(image.tag_v2.get(ExifTags.Base.BitsPerSample, ())) == {16}


def _deep_png(data: bytes | memoryview) -> NDArray[Any]:
    pixels: NDArray[Any] = imagecodecs.png_decode(bytes(data))
    return pixels[..., : 1 if pixels.shape[2] == 2 else 3]


def _deep_tiff(data: bytes | memoryview, image: TiffImageFile, page: int) -> NDArray[Any]:
    stored: NDArray[Any] = imagecodecs.tiff_decode(bytes(data), index=page)
    if image.tag_v2.get(_PLANAR_CONFIGURATION) == 2 and stored.ndim == 3:  # plane after plane
        stored = stored.transpose(1, 2, 0)
    pixels: NDArray[Any] = _UPRIGHT.get(image.tag_v2.get(ExifTags.Base.Orientation, 1), np.asarray)(stored)
    if pixels.ndim != 3 or pixels.shape[:2] != (image.height, image.width) or pixels.dtype != np.uint16:
        raise DecodeError(f"could not decode the tiff image: its 16-bit colours came as {pixels.dtype} {pixels.shape}")
    if pixels.shape[2] == 4 and _ASSOCIATED in image.tag_v2.get(ExifTags.Base.ExtraSamples, ()):
        return _unassociated(pixels)
    return pixels[..., :3]


def _unassociated(rgba: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """uint16[H, W, 3] of colours that were multiplied by their alpha, as Pillow does at 8 bits."""
    alpha = np.maximum(rgba[..., 3:], 1).astype(np.uint32)
    colours = np.minimum(rgba[..., :3] * np.uint32(65535) // alpha, 65535).astype(np.uint16)
    return np.where(rgba[..., 3:] == 0, rgba[..., :3], colours)
