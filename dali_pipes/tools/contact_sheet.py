"""Pictures of what a model sees, for people."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from dali_pipes.loader.loader import Loader


def write_contact_sheet(loader: Loader, path: Path, *, limit: int = 64, side: int = 160) -> None:
    """Write the first `limit` images of an integer-valued loader as one PNG, `side` pixels each, in rows.

    Args:
        loader: gives uint8 batches (a recipe without mean).
        path: the PNG to write.
    """
    tiles: list[Image.Image] = []
    for batch in loader:
        for image in batch.image.cpu().numpy()[: limit - len(tiles)]:
            picture = np.ascontiguousarray(image.transpose(1, 2, 0))
            tile = Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0]).convert("RGB")
            tile.thumbnail((side, side))
            tiles.append(tile)
        if len(tiles) >= limit:
            break
    columns = max(1, math.ceil(math.sqrt(len(tiles))))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(tiles) / columns) * side), (32, 32, 32))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (column * side + (side - tile.width) // 2, row * side + (side - tile.height) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
