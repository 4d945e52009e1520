"""PNG, TIFF, WebP, BMP, GIF and PNM through Pillow, chosen by content.

Colour: `convert("RGB")`; alpha is dropped, not composited (the stored colour is kept, as Pillow and torchvision do);
palettes are looked up; one bit becomes 0 and 255. 16 bits are kept: gray at depth 8 goes through the policy's window
where it has one that applies to bare images, else y = floor(x / 257 + 0.5); colour of 16 bits always takes the latter.
At depth 16, 8-bit sources give x * 257. Animated or multi-page files: one frame is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dali_pipes.decode.coded import Coded, render
from dali_pipes.decode.gray import luma, luma16
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.decode.voi import Window
from dali_pipes.errors import DecodeError, LimitError, TruncatedError, UnsupportedError

FORMATS = {"png": "PNG", "tiff": "TIFF", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "pnm": "PPM"}
RASTER = {"source": "raster"}


def decode_raster(data: bytes | memoryview, tag: str, frame: int, policy: DecodePolicy) -> Decoded:
    """One frame as uint8 or uint16 [H, W, C]; raises LimitError before allocation, TruncatedError, DecodeError."""
    pixels = _read(data, tag, frame, policy)
    wide_gray = pixels.dtype == np.uint16 and pixels.shape[2] == 1
    if policy.channels == 1 and pixels.shape[2] == 3:
        pixels = luma16(pixels) if pixels.dtype == np.uint16 else luma(pixels)
    if policy.depth == 16:
        wide = pixels if pixels.dtype == np.uint16 else pixels * np.uint16(257)
        return Decoded(np.ascontiguousarray(wide), {**RASTER, "windowed": wide_gray})
    if pixels.dtype == np.uint16:
        pixels = narrow(pixels, policy.window if wide_gray else None)
    return Decoded(np.ascontiguousarray(pixels))


def narrow(pixels: NDArray[np.uint16], window: Window | None) -> NDArray[np.uint8]:
    """uint16 to uint8 of the same shape: by the window, or over the whole range (floor(x / 257 + 0.5)) for None."""
    image = Coded(pixels.reshape(pixels.shape[0], -1), np.arange(65536, dtype=np.float64))
    return render(image, window)[0].reshape(pixels.shape)


def _read(data: bytes | memoryview, tag: str, frame: int, policy: DecodePolicy) -> NDArray[Any]:
    deep = _deep_colour(data, tag)
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[tag]]) as image:
            policy.limits.check_frame(image.height, image.width, 6 if deep else 4)
            if frame < 0 or frame >= getattr(image, "n_frames", 1):
                raise DecodeError(f"frame {frame} was asked for; the {tag} image has {getattr(image, 'n_frames', 1)}")
            if deep and frame == 0:
                return np.asarray(deep(bytes(data)))[..., :3]
            image.seek(frame)
            return _pixels(image)
    except Image.DecompressionBombError as error:
        raise LimitError(f"{tag} image: {error}") from None
    except UnidentifiedImageError:
        raise DecodeError(f"the {tag} image's headers are damaged") from None
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError) as error:
        text = str(error).lower()
        cut = any(word in text for word in ("truncated", "unexpected end", "not enough data", "eof"))
        raise (TruncatedError if cut else DecodeError)(f"could not decode the {tag} image: {error}") from None


def _pixels(image: Image.Image) -> NDArray[Any]:
    """uint8 or uint16 [H, W, 1 or 3] of the current frame."""
    if image.mode.startswith("I"):
        wide = np.array(image)
        if wide.dtype.kind not in "iu" or wide.min() < 0 or wide.max() > 65535:
            raise UnsupportedError("the image holds values outside 0..65535; store it as 16-bit gray or as DICOM")
        return wide.astype(np.uint16)[..., None]
    if image.mode == "F":
        raise UnsupportedError(
            "the image holds floating-point values, whose full scale is not known; store it as 16-bit gray"
        )
    gray = image.mode in ("1", "L", "LA", "La")
    pixels = np.array(image.convert("L" if gray else "RGB"))
    return pixels[..., None] if gray else pixels


def _deep_colour(data: bytes | memoryview, tag: str) -> Callable[[bytes], Any] | None:
    """A decoder that keeps 16 bits per channel where a PNG has them in colour (Pillow would cut them to 8)."""
    if tag == "png" and data[24:26] in (b"\x10\x02", b"\x10\x06"):
        return imagecodecs.png_decode
    return None
