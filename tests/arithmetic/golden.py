"""Digests of outputs of the portable arithmetic, kept in golden.json; running this file writes that one anew.

Do that only together with a new ARITHMETIC_VERSION: the digests stand for caches that already lie on users' disks.
(Those of warp, recolour and normalise, which come after the cache, stand for users' trained models.)
"""

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.arithmetic import (
    ARITHMETIC_VERSION,
    Fit,
    base_image,
    colour_maps,
    matrices,
    normalisation,
    normalise_into,
    quantise,
    recolour,
    warp,
)
from dali_pipes.arithmetic.tables import Interpolation

FILE = Path(__file__).with_name("golden.json")

SHAPES = ((97, 61), (40, 130), (1, 300), (64, 64), (211, 3))
SIZE = (48, 64)
FITS: tuple[Fit, ...] = ("stretch", "crop", "pad")
MODES: tuple[Interpolation, ...] = ("bilinear", "bicubic")
PLACES = tuple(
    map(np.array, ([0.0, 7.25, 90.0, -133.7], [1.0, 1.1, 0.9, 2.5], [0.0, 0.1, 0, -0.3], [0.0, -0.2, 0, 0.4]))
)
"""Angles, scales, and shifts down and right."""
COLOURS = tuple(
    map(np.array, ([1.0, 1.2, 0.7, 3.0], [1.0, 0.8, 1.5, 4.0], [1.0, 1.0, 1.3, 0.2], [0.0, 0.0, 25.0, -140.0]))
)
"""Brightness, contrast, saturation and hue."""


def pixels(h: int, w: int, channels: int, depth: int) -> np.ndarray:
    """Scattered values that need no random generator: the top bits of multiples of 2**64 / golden ratio."""
    words = np.arange(1, h * w * channels + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (words >> np.uint64(64 - depth)).astype(np.uint8 if depth == 8 else np.uint16).reshape(h, w, channels)


def digests() -> dict[str, Any]:
    """The version, and a digest for each kind of output."""
    found: dict[str, Any] = {"version": ARITHMETIC_VERSION}
    for fit, mode, depth in product(FITS, MODES, (8, 16)):
        total = hashlib.sha256()
        for (h, w), channels in product(SHAPES, (1, 3)):
            total.update(base_image(pixels(h, w, channels, depth), SIZE, fit, mode).tobytes())
        found[f"{fit} {mode} uint{depth}"] = total.hexdigest()[:32]
    for depth, channels in product((8, 16), (1, 3)):
        x = np.ascontiguousarray(pixels(50, 70, channels, depth).transpose(2, 0, 1))
        warps, maps = quantise(matrices((50, 70), *PLACES)), colour_maps(channels, (1 << depth) - 1, *COLOURS)
        for name, apply, numbers in (("warp", warp, warps), ("recolour", recolour, maps)):
            total = hashlib.sha256(numbers.astype("<i8").tobytes())
            for each in numbers:
                total.update(apply(x, each).tobytes())
            found[f"{name} uint{depth} {channels} channels"] = total.hexdigest()[:32]
    for dtype in (np.float32, np.float16):
        out = np.zeros((3, 50, 70), dtype)
        x = np.ascontiguousarray(pixels(50, 70, 3, 8).transpose(2, 0, 1))
        normalise_into(out, x, *normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), hflip=True)
        found[f"normalise {np.dtype(dtype).name}"] = hashlib.sha256(out.tobytes()).hexdigest()[:32]
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=2) + "\n", "utf-8")
