"""Colour to gray, as Pillow's convert("L") does it: (19595 R + 38470 G + 7471 B + 32768) >> 16 (ITU-R 601 luma in 16
fractional bits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8[H, W, 3] to uint8[H, W, 1]."""
    height, width, _ = rgb.shape
    flat = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(rgb), "raw", "RGB", 0, 1).convert("L")
    return np.asarray(flat).reshape(height, width, 1)


def luma16(rgb: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """uint16[H, W, 3] to uint16[H, W, 1] with the same weights (which sum to 65536, so uint32 holds every sum)."""
    total = rgb[..., 0] * np.uint32(19595) + rgb[..., 1] * np.uint32(38470) + rgb[..., 2] * np.uint32(7471)
    gray: NDArray[np.uint16] = ((total + np.uint32(32768)) >> np.uint32(16)).astype(np.uint16)[..., None]
    return gray
