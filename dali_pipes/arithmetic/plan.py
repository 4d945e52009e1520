"""What becomes of one base image, as numbers that every backend reads: the record `PLAN`, and what it means.

    crop, resize, quarter turns, flips    one resampling: `integer.resize` of the box, then moves of pixels
    or a warp                             one resampling: `affine.warp` of the whole base image
    colour map                            `colour.recolour`

A record is plain int64 (and float64) words, so that a batch of them is an array int64[N, WORDS] that a graph can carry.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.affine import warp
from dali_pipes.arithmetic.colour import recolour
from dali_pipes.arithmetic.geometry import Size
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
    return out, bool(flips & 1), bool(flips & 2)
