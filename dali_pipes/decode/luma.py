"""Colour to gray, as Pillow's convert("L") does it: the luma of ITU-R BT.601 in 16 fractional bits, rounded half up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipes.rec601 import LUMA_BITS, LUMA_FIXED


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8[H, W, 3] to uint8[H, W, 1]."""
    height, width, _ = rgb.shape
    flat = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(rgb), "raw", "RGB", 0, 1).convert("L")
    return np.asarray(flat).reshape(height, width, 1)


def luma16(rgb: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """uint16[H, W, 3] to uint16[H, W, 1] with the same weights (which sum to 65536, so uint32 holds every sum)."""
    red, green, blue = (rgb[..., i] * np.uint32(weight) for i, weight in enumerate(LUMA_FIXED))
    half = np.uint32(1 << (LUMA_BITS - 1))
    gray: NDArray[np.uint16] = ((red + green + blue + half) >> np.uint32(LUMA_BITS)).astype(np.uint16)[..., None]
    return gray
