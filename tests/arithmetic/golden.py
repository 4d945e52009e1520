"""Digests of outputs of the portable arithmetic, kept in golden.json; running this file writes that one anew.

Do that only together with a new ARITHMETIC_VERSION: the digests stand for caches that already lie on users' disks.
"""

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.arithmetic import ARITHMETIC_VERSION, Fit, base_image, normalisation, normalise_into
from dali_pipes.arithmetic.tables import Interpolation

FILE = Path(__file__).with_name("golden.json")

SHAPES = ((97, 61), (40, 130), (1, 300), (64, 64), (211, 3))
SIZE = (48, 64)
FITS: tuple[Fit, ...] = ("stretch", "crop", "pad")
MODES: tuple[Interpolation, ...] = ("bilinear", "bicubic")


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
    for dtype in (np.float32, np.float16):
        out = np.zeros((3, 50, 70), dtype)
        x = np.ascontiguousarray(pixels(50, 70, 3, 8).transpose(2, 0, 1))
        normalise_into(out, x, *normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), hflip=True)
        found[f"normalise {np.dtype(dtype).name}"] = hashlib.sha256(out.tobytes()).hexdigest()[:32]
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=2) + "\n", "utf-8")
