"""A batch as a picture for people."""

from __future__ import annotations

import html
import io
import math

import numpy as np
import torch
from PIL import Image

SHOWN = 32
"""Images of a batch that are shown."""

SIDE = 128
"""Largest side of one image in a sheet, pixels."""

escape = html.escape


def sheet(images: torch.Tensor, most: int = SHOWN) -> Image.Image:
    """Return the first images of a batch as one picture.

    Integers are shown as they are (16-bit ones by their upper 8 bits). Normalised values are spread over black to
    white, from the smallest to the largest value of the images shown, because what they were normalised with is not
    known here.

    Args:
        images: [N, C, H, W] of any type, C 1 or 3, on any device; or [N, K, C, H, W], of views or studies, or of both.
        most: how many are shown.
    """
    shown = (images.flatten(0, -4) if images.dim() > 4 else images)[:most].detach().cpu()
    if shown.is_floating_point():
        shown = shown.float()
        finite = shown[torch.isfinite(shown)]
        low, high = (finite.min(), finite.max()) if len(finite) else (torch.tensor(0.0), torch.tensor(1.0))
        shown = ((shown - low) / (high - low).clamp(min=1e-12)).nan_to_num(0, 1, 0).mul(255).round().to(torch.uint8)
    values = shown.numpy()
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)
    columns = max(1, math.ceil(math.sqrt(len(values))))
    whole = Image.new("RGB", (columns * SIDE, max(1, math.ceil(len(values) / columns)) * SIDE), (32, 32, 32))
    for i, image in enumerate(values):
        picture = np.ascontiguousarray(image.transpose(1, 2, 0))
        tile = Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0]).convert("RGB")
        tile.thumbnail((SIDE, SIDE))
        row, column = divmod(i, columns)
        whole.paste(tile, (column * SIDE + (SIDE - tile.width) // 2, row * SIDE + (SIDE - tile.height) // 2))
    return whole


def png(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
