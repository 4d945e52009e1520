"""A worst sample as a picture: the reference, the other, and a map of where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_pipes.parity.tally import Worst

_GAP = 4
_SMALLEST = 96


def side_by_side(worst: Worst) -> Image.Image:
    """Return the reference, the other, and the difference, from left to right, as RGB.

    The difference is the largest of the channels, from black (none) through red and yellow to white (the largest of
    this sample). Floats are shown from the reference's smallest value to its largest. Small pictures are enlarged.
    """
    low, high = float(worst.reference.min()), float(worst.reference.max())
    if worst.reference.dtype.kind == "u":
        low, high = 0.0, float(np.iinfo(worst.reference.dtype).max)
    panels = [_rgb(worst.reference, low, high), _rgb(worst.other, low, high), difference_map(worst)]
    height, width, _ = panels[0].shape
    strip = np.full((height, _GAP, 3), 128, np.uint8)
    image = Image.fromarray(np.hstack([panels[0], strip, panels[1], strip, panels[2]]))
    factor = -(-_SMALLEST // min(height, width)) if max(height, width) < 1024 else 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def difference_map(worst: Worst) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: the absolute difference, scaled to its largest, in the colours of heat."""
    apart = np.abs(worst.reference.astype(np.float64) - worst.other.astype(np.float64)).max(axis=0)
    apart = np.nan_to_num(apart, nan=1e300, posinf=1e300)
    heat = 3 * apart / (apart.max() or 1.0)
    channels = [np.clip(heat - shift, 0, 1) for shift in (0, 1, 2)]
    channels[0] = np.where(heat > 0, np.maximum(channels[0], 0.25), 0)  # the smallest difference is seen too
    return np.asarray(np.stack(channels, axis=2) * 255, np.uint8)


def _rgb(image: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = (image.astype(np.float64) - low) * (255.0 / ((high - low) or 1.0))
    plane = np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(plane, 3, axis=2) if plane.shape[2] == 1 else plane
