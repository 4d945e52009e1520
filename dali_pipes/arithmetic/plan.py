"""What becomes of one base image, as numbers that every backend reads: the record `PLAN`, and what it means.

    crop, resize, quarter turns, flips    one resampling: `integer.resize` of the box, then moves of pixels
    or a warp                             one resampling: `affine.warp` of the whole base image
    colour map                            `colour.recolour`
    blur, then sharpness                  `blur.blur`, `blur.sharpen`
    autocontrast, then one table          `curves.autocontrast`, `curves.curve`
    noise                                 `noise.add_noise`
    erasing                               a rectangle of one value a channel

A record is plain int64 (and float64) words, so that a batch of them is an array int64[N, WORDS] that a graph can carry.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.affine import warp
from dali_pipes.arithmetic.blur import blur, sharpen
from dali_pipes.arithmetic.colour import recolour
from dali_pipes.arithmetic.curves import autocontrast, curve, look_up
from dali_pipes.arithmetic.geometry import Size
from dali_pipes.arithmetic.noise import add_noise
from dali_pipes.arithmetic.planes import resize_part
from dali_pipes.arithmetic.tables import Interpolation

Pixels = npt.NDArray[Any]
Plan = npt.NDArray[np.void]

PLAN = np.dtype(
    [
        ("box", "<i8", 4),  # top, left, height, width in base pixels
        ("turns", "<i8"),  # quarter turns counter-clockwise, after resizing
        ("flips", "<i8"),  # 1: mirrored left to right, 2: upside down; after the turns
        ("warped", "<i8"),  # 1: by the map below, which holds all of the above; 0: as above
        ("doublings", "<i8"),  # of the map's grid, see affine.py
        ("warp", "<i8", 6),  # from output pixels to base pixels
        ("coloured", "<i8"),  # 1: by the map below
        ("colour", "<i8", 12),  # C rows of C weights and an offset, see colour.py; the rest is 0
        ("blur", "<i8", 16),  # weights, see blur.py; the first alone, 2**15, or all 0: no blur
        ("sharpen", "<i8"),  # G, see blur.py; 0: as it is
        ("autocontrast", "<i8"),  # 1: do
        ("exponent", "<f8"),  # of gamma; 0 or 1: none
        ("threshold", "<i8"),  # of solarize; 0 or beyond full scale: none
        ("lost", "<i8"),  # bits that posterize drops
        ("noise", "<i8"),  # A, see noise.py; 0: none
        ("origin", "<u8"),  # of the noise
        ("erased", "<i8", 4),  # top, left, height, width in output pixels; height 0: none
        ("fill", "<i8", 3),  # what it is filled with, a channel each
    ]
)
WORDS = PLAN.itemsize // 8


def as_words(plans: Plan) -> npt.NDArray[np.int64]:
    """Return N records as int64[N, WORDS], the same memory."""
    return plans.view(np.int64).reshape(len(plans), WORDS)


def as_plan(words: npt.NDArray[np.int64]) -> Any:
    """Return the record that int64[WORDS] holds."""
    return np.ascontiguousarray(words).view(PLAN)[0]


def varied(image: Pixels, plan: Any, size: Size, interpolation: Interpolation) -> tuple[Pixels, bool, bool]:
    """Do what a record says to a base image, and return the result and the flips that are left to do.

    Args:
        image: uint8 or uint16 [C, H, W], may be read-only.
        plan: one record of `PLAN`.
        size: (height, width) of the output.
        interpolation: of resizing.

    Returns:
        [C, *size] of the same type, which may be a view of `image`; whether to mirror it left to right, and upside
        down: whoever copies it next can do so on the way.
    """
    flips = int(plan["flips"])
    if plan["warped"]:
        out, flips = warp(image, plan["warp"], size, int(plan["doublings"])), 0
    else:
        turns = int(plan["turns"])
        before = size[::-1] if turns % 2 else size
        out = np.rot90(resize_part(image, tuple(plan["box"].tolist()), before, interpolation), turns, (1, 2))
    if plan["coloured"]:
        channels = len(image)
        out = recolour(out, plan["colour"][: channels * (channels + 1)].reshape(channels, channels + 1))
    if plan["noise"] or plan["erased"][2]:  # which know where they are
        out, flips = out[:, :: -1 if flips & 2 else 1, :: -1 if flips & 1 else 1], 0
    return _filtered(out, plan), bool(flips & 1), bool(flips & 2)


def _filtered(out: Pixels, plan: Any) -> Pixels:
    """Do what comes after the colour map. Blur, sharpness and what depends on values alone commute with flips."""
    if plan["blur"][1]:
        out = blur(out, plan["blur"])
    if plan["sharpen"]:
        out = sharpen(out, int(plan["sharpen"]))
    if plan["autocontrast"]:
        out = autocontrast(out)
    exponent, threshold, lost = float(plan["exponent"]) or 1.0, int(plan["threshold"]), int(plan["lost"])
    if exponent != 1.0 or 0 < threshold <= np.iinfo(out.dtype).max or lost:
        out = look_up(out, curve(exponent, threshold or int(np.iinfo(out.dtype).max) + 1, lost, out.dtype))
    if plan["noise"]:
        out = add_noise(out, int(plan["origin"]), int(plan["noise"]))
    top, left, height, width = plan["erased"].tolist()
    if height:
        out = np.array(out, order="C")
        out[:, top : top + height, left : left + width] = plan["fill"][: len(out), None, None]
    return out
