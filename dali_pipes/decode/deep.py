"""Depth 16: keep the values, apply the window later.

Pixels are uint16 and mean value = (pixel + offset) * slope + intercept, in modality units; so resizing them is resizing
the values. Monochrome images of up to 16 bits keep every value exactly; wider ones (32-bit integers, floats) are
quantised to 65536 steps (to one, where a step would be below the smallest double). Percentiles of `apply_window` are
those of the pixels it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.grayscale import STILL, VOILUT, Candidates, Coded, render
from dali_pipes.decode.histogram import Codes, look_up
from dali_pipes.decode.voi import Window
from dali_pipes.errors import DecodeError

Words = NDArray[np.uint16]
_FULL = 65536


def deepen(image: Coded) -> tuple[Words, dict[str, Any]]:
    """uint16[H, W, 1] and its attributes.

    Offset, slope, intercept, span (the range of values that the bits allow), invert, padding ([low, high] in pixel
    units, or None), windows, function, luts, and what is wrong with the last three. Plain JSON values.
    """
    table, offset, slope, intercept = _affine(image)
    table, padding = _mark_padding(image, table)
    pixels = table if image.codes is None else _spread(table, image.codes)
    attributes = {
        "source": "dicom",
        "windowed": True,
        "offset": offset,
        "slope": slope,
        "intercept": intercept,
        "span": list(image.span()),
        "invert": image.invert,
        "padding": padding,
        "windows": [list(pair) for pair in image.candidates.windows],
        "function": image.candidates.function,
        "luts": [{"first": lut.first, "entries": list(lut.entries), "top": lut.top} for lut in image.candidates.luts],
        "window_problem": image.candidates.window_problem,
        "lut_problem": image.candidates.lut_problem,
    }
    return pixels[..., None], attributes


def _spread(table: Words, codes: Codes) -> Words:
    """table[codes]; a copy of the codes where the table changes none, as for all unsigned values."""
    if np.array_equal(table, np.arange(table.size)):
        return codes.astype(np.uint16, order="C")
    return look_up(table, codes)


def _mark_padding(image: Coded, table: Words) -> tuple[Words, list[int] | None]:
    """Return the table, and [low, high] of the pixels that are padding, or None.

    Padding keeps its own values, so that it does not stand out when the image is resized. If a look-up table or
    quantisation may have given these values to other pixels too, it takes the smallest value that nothing else has.
    """
    if image.padded is None:
        return table, None
    if image.affine is not None:
        marked = table[image.padded]
        return table, [int(marked.min()), int(marked.max())]
    unused = np.setdiff1d(np.arange(_FULL), table[~image.padded])
    if not unused.size:
        return table, None
    return np.where(image.padded, np.uint16(unused[0]), table), [int(unused[0])] * 2


def _affine(image: Coded) -> tuple[Words, int, float, float]:
    """uint16 per entry of `image.values`, and the (offset, slope, intercept) that give the values back."""
    if image.affine is not None:
        offset = int(image.affine.stored.min())
        return (image.affine.stored - offset).astype(np.uint16), offset, image.affine.slope, image.affine.intercept
    low, high = image.span()
    whole = image.codes is not None and high - low < _FULL  # the entries of a look-up table, which are whole numbers
    top = _FULL - 1 if image.padded is None else _FULL - 2  # one is left for padding
    step = 1.0 if whole else (high - low) / top or 1.0
    steps = np.round((image.values - low) / step)
    return np.clip(steps, 0, _FULL - 1).astype(np.uint16), 0, step, low


def apply_window(
    pixels: Words, attributes: dict[str, Any], window: Window | None, jitter: tuple[float, float] = STILL
) -> NDArray[np.uint8]:
    """Return uint8 of the shape of `pixels` from pixels kept at depth 16 and the attributes that came with them.

    pixels: [H, W, C] or [C, H, W].

    None maps the whole range that the source's bits allow. Colour and 8-bit sources take no window: floor(x / 257 +
    0.5). jitter: see `grayscale.window_table`. Raises WindowError where the source lacks the window that was asked for.
    """
    if pixels.dtype != np.uint16:
        raise DecodeError(f"apply_window needs uint16 pixels, not {pixels.dtype}")
    if not attributes.get("windowed", False):
        return render(Coded(pixels, np.arange(_FULL, dtype=np.float64)), None)[0][..., 0]
    plane, axis = _one_plane(pixels)
    done = _windowed(plane, attributes, window, jitter)
    return np.ascontiguousarray(np.repeat(done, 3, axis)) if axis is not None else done


def _one_plane(pixels: Words) -> tuple[Words, int | None]:
    """One of the three equal channels of a monochrome source, and their axis ([H, W, 3] or [3, H, W]).

    Or all, and None.

    So that percentiles do not depend on how often the one channel is repeated.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels[..., :1], 2
    if pixels.ndim == 3 and pixels.shape[2] != 1 and pixels.shape[0] == 3:
        return pixels[:1], 0
    return pixels, None


def _windowed(
    pixels: Words, attributes: dict[str, Any], window: Window | None, jitter: tuple[float, float]
) -> NDArray[np.uint8]:
    stored = np.arange(_FULL, dtype=np.float64) + attributes.get("offset", 0)
    values = stored * attributes.get("slope", 1.0) + attributes.get("intercept", 0.0)
    padded = None
    if attributes.get("padding"):
        padded = np.zeros(_FULL, np.bool_)
        padded[attributes["padding"][0] : attributes["padding"][1] + 1] = True
    offered = Candidates(
        tuple((c, w) for c, w in attributes.get("windows", ())),
        attributes.get("function", "linear"),
        tuple(VOILUT(lut["first"], tuple(lut["entries"]), lut["top"]) for lut in attributes.get("luts", ())),
        attributes.get("window_problem", ""),
        attributes.get("lut_problem", ""),
    )
    span = attributes.get("span")
    image = Coded(
        pixels, values, padded, attributes.get("invert", False), offered, None if span is None else (span[0], span[1])
    )
    return render(image, window, jitter)[0][..., 0]
