"""Colour images to RGB (PS3.3 C.7.6.3.1.2).

YBR forms by libjpeg's own fixed-point arithmetic, so that a YBR_FULL image gives the same RGB however it is compressed;
and palettes (C.7.6.3.1.5, C.7.9).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.lut import read_descriptor, read_words, widen
from dali_pipes.decode.dicom.segments import expand_segments
from dali_pipes.decode.dicom.values import content, is_little, text
from dali_pipes.errors import DecodeError, UnsupportedError
from dali_pipes.rec601 import LUMA

Bytes = NDArray[np.uint8]
_DESCRIPTOR = "{}PaletteColorLookupTableDescriptor"
_PRIMARIES = ("Red", "Green", "Blue")
_FULL = ("YBR_FULL", "YBR_FULL_422")


def to_rgb(array: NDArray[Any], header: Header, rgb: bool, bits: int) -> NDArray[Any]:
    """uint8 or uint16 [H, W, 3] RGB, full scale 255 or 65535, from three samples of `bits` bits."""
    scaled: NDArray[Any] = full_scale(array, bits)
    if rgb or header.photometric in ("RGB", "YBR_RCT", "YBR_ICT"):
        return scaled
    if scaled.dtype != np.uint8:
        raise UnsupportedError(f"{header.photometric} of {bits} bits: the standard gives YBR forms 8 bits")
    if header.photometric in _FULL:
        return full_to_rgb(scaled)
    if header.photometric.startswith("YBR_PARTIAL"):
        return partial_to_rgb(scaled)
    raise UnsupportedError(f"{header.photometric} of three samples is not read")


def full_scale(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """uint8 where the samples have 8 bits or fewer, else uint16, stretched so that 2**bits - 1 becomes 255 or 65535."""
    top, want = (1 << bits) - 1, 255 if bits <= 8 else 65535
    dtype = np.uint8 if bits <= 8 else np.uint16
    if top == want:
        return array.astype(dtype, copy=False)
    scaled: NDArray[Any] = np.floor(np.minimum(array, top).astype(np.float64) * (want / top) + 0.5).astype(dtype)
    return scaled


def full_to_rgb(ybr: Bytes) -> Bytes:
    """R = Y + 1.402 Cr', G = Y - 0.344136 Cb' - 0.714136 Cr', B = Y + 1.772 Cb' in 16 fractional bits (jdcolor.c).

    Primes: minus 128.
    """
    x = np.arange(256, dtype=np.int32) - 128
    red, blue = (91881 * x + 32768) >> 16, (116130 * x + 32768) >> 16
    green_b, green_r = -22554 * x + 32768, -46802 * x
    y = ybr[..., 0].astype(np.int32)
    out = np.empty(ybr.shape, np.uint8)
    out[..., 0] = np.clip(y + red[ybr[..., 2]], 0, 255)
    out[..., 1] = np.clip(y + ((green_b[ybr[..., 1]] + green_r[ybr[..., 2]]) >> 16), 0, 255)
    out[..., 2] = np.clip(y + blue[ybr[..., 1]], 0, 255)
    return out


def partial_to_rgb(ybr: Bytes) -> Bytes:
    """ITU-R BT.601 studio range: Y 16..235, Cb and Cr 16..240, rounded half up."""
    y = (ybr[..., 0].astype(np.float64) - 16) * (255 / 219)
    cb, cr = ((ybr[..., i].astype(np.float64) - 128) * (255 / 224) for i in (1, 2))
    red, green, blue = LUMA
    inner = blue * 1.772 * cb + red * 1.402 * cr
    rgb = np.stack([y + 1.402 * cr, y - inner / green, y + 1.772 * cb], axis=-1)
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)


def palette(header: Header) -> tuple[int, Bytes]:
    """(first stored value, uint8[n, 3]).

    Entries of 16 bits give their upper 8, right for tables filled by x * 256 and by x * 257.
    """
    ds, tables, starts = header.dataset, [], []
    for name in _PRIMARIES:
        count, first, bits = read_descriptor(ds, _DESCRIPTOR.format(name), header.signed)
        plain, segmented = f"{name}PaletteColorLookupTableData", f"Segmented{name}PaletteColorLookupTableData"
        if content(ds, plain):
            data = read_words(ds, plain, count)
        else:
            data = expand_segments(content(ds, segmented), bits, count, is_little(ds, segmented))
        entries, bits = widen(data, bits)
        tables.append((entries >> (bits - 8)).astype(np.uint8))
        starts.append(first)
    if len({t.size for t in tables}) != 1 or len(set(starts)) != 1:
        raise DecodeError("the red, green and blue palettes differ in length or first value")
    return starts[0], np.stack(tables, axis=-1)


def apply_palette(stored: NDArray[Any], header: Header) -> Bytes:
    """uint8[H, W, 3] of stored values [H, W].

    Those before the first take the first entry, those after the last the last.
    """
    first, table = palette(header)
    rgb: Bytes = table[np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)]
    return rgb


def has_supplement(header: Header) -> bool:
    """Whether a supplemental palette (C.7.6.19) colours some of a monochrome image."""
    presentation = text(header.dataset, "PixelPresentation")
    return presentation in ("COLOR", "MIXED") and content(header.dataset, _DESCRIPTOR.format("Red")) is not None


def supplement(stored: NDArray[Any], header: Header) -> tuple[NDArray[np.bool_], Bytes]:
    """Where the supplemental palette colours the image, bool[H, W], and the colours, uint8[H, W, 3].

    Stored values from the palette's first on are colours; those below stay gray.
    """
    return stored >= palette(header)[0], apply_palette(stored, header)


def overlay(gray: Bytes, where: NDArray[np.bool_], colours: Bytes) -> Bytes:
    """uint8[H, W, 3]: gray[H, W, 1], but for the colours where they belong."""
    return np.where(where[..., None], colours, gray)
