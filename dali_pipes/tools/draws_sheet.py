"""A contact sheet of one file's draws: what a model sees of it in one epoch after another, masks overlaid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dali_pipes.loader import display
from dali_pipes.loader.loader import Loader
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe
from dali_pipes.serving import unnormalised

COLOURS = np.array([(230, 60, 50), (60, 160, 230), (90, 200, 70), (240, 180, 40), (190, 90, 220), (60, 210, 200)])
"""Of the classes of a mask, from 1 on, again and again."""


def draws_of(
    file: Path,
    recipe: Recipe,
    count: int,
    *,
    frame: int = 0,
    seed: int = 0,
    mask: Path | None = None,
    mask_frame: int = 0,
) -> Image.Image:
    """Return a sheet of `count` draws of a file: of the epochs 0, 1, ..., and of each view.

    Args:
        file: an image.
        recipe: what is drawn; without its normalisation, which pictures do not show.
        count: how many tiles.
        frame: of the file.
        seed: of the draws.
        mask: its mask, which is laid over it.
        mask_frame: of the file of the mask.

    Raises:
        DecodeError: the file or its mask cannot be read, and its subclasses. ConfigError: as `Recipe` raises it.
    """
    plain = unnormalised(recipe)
    tiles: list[torch.Tensor] = []
    one = _one(file, frame, mask, mask_frame)
    with Loader(one, plain, batch_size=1, cache_mode="memory", backend="torch", seed=seed) as loader:
        epoch = 0
        while len(tiles) < count:
            loader.set_epoch(epoch)
            for batch in loader:
                images = batch.image.reshape(-1, *batch.image.shape[-3:])
                masks = [None] * len(images) if batch.mask is None else batch.mask.reshape(-1, *images.shape[-2:])
                tiles += [_overlaid(image, each) for image, each in zip(images, masks)]
            epoch += 1
    return display.sheet(torch.stack(tiles[:count]), most=count)


def _overlaid(image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """uint8 [3, H, W]: the image, and half of a colour where the mask has a class."""
    deep = image.dtype is torch.uint16
    values: npt.NDArray[np.uint8] = (image.numpy() >> 8).astype(np.uint8) if deep else image.numpy()
    picture = np.repeat(values, 3, axis=0) if len(values) == 1 else values
    if mask is None:
        return torch.from_numpy(picture)
    numbers = mask.numpy()
    colours = COLOURS[(numbers.astype(np.int64) - 1) % len(COLOURS)].transpose(2, 0, 1)
    mixed = ((picture.astype(np.int64) + colours) // 2).astype(np.uint8)
    return torch.from_numpy(np.where(numbers > 0, mixed, picture))


def _one(file: Path, frame: int, mask: Path | None, mask_frame: int) -> Manifest:
    """Return a manifest of one sample."""
    paths = [path.resolve() for path in (file, mask) if path is not None]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(root).as_posix() for path in paths]
    numbers = {"frame": frame, **({} if mask is None else {"mask_frame": mask_frame})}
    return Manifest.from_records([{**numbers, **dict(zip(("path", "mask"), names))}], root)
