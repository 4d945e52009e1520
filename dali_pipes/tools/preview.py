"""A sheet of samples as a model sees them in several epochs, with captions: to look at one's data before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dali_pipes.decode import describe
from dali_pipes.errors import ConfigError, DaliPipesError
from dali_pipes.loader.dataset import ImageDataset
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe
from dali_pipes.serving import unnormalised

SIDE = 192
"""Largest side of one picture, pixels."""

CAPTION = 260
"""Width of the captions, pixels."""

_GAP = 8
_BACKGROUND, _INK, _FAINT = (24, 24, 24), (235, 235, 235), (160, 160, 160)

Row = dict[str, Any]


def rows(manifest: Manifest, recipe: Recipe, *, epochs: int, samples: int, seed: int = 0) -> Iterator[Row]:
    """Yield what a sheet shows of each sample: plain values, and the pictures, uint8[H, W, 3] an epoch, in `pictures`.

    Samples are chosen evenly over the manifest. Pictures are those of training in epochs 0, 1, ... under `seed`, before
    normalisation; the first view of each.

    Args:
        manifest: the samples.
        recipe: how files become pictures.
        epochs: how many pictures of each.
        samples: how many rows at most.
        seed: as for `Loader`.

    Raises:
        ConfigError: fewer than one sample or epoch.
    """
    if epochs < 1 or samples < 1:
        raise ConfigError(f"epochs={epochs}, samples={samples}: give at least 1 of each.")
    shown = unnormalised(recipe)
    with ImageDataset(manifest, shown, seed=seed) as dataset:
        for index in np.unique(np.linspace(0, len(manifest) - 1, min(samples, len(manifest))).astype(int)).tolist():
            yield _row(dataset, index, epochs)


def _row(dataset: ImageDataset, index: int, epochs: int) -> Row:
    manifest, sample = dataset.manifest, dataset.manifest[index]
    label = manifest.classes[sample.label] if manifest.classes and sample.label >= 0 else str(sample.label)
    told: Row = {"index": index, "id": sample.id, "label": label, "split": sample.split, "pictures": []}
    try:
        facts = describe(manifest.resolve(index).read_bytes(), sample.frame, dataset.recipe.decode_policy)
        told |= {"size": [facts["height"], facts["width"]], "window": _window(facts)}
        for epoch in range(epochs):
            dataset.set_epoch(epoch)
            told["pictures"].append(_rgb(dataset[index][0].numpy()))
    except (DaliPipesError, OSError) as error:
        told["error"] = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
    return told


def _window(facts: dict[str, Any]) -> str:
    """Return the window in words, such as `percentile, 90..2241`."""
    window = facts.get("window")
    if not window:
        return "none: it is 8-bit already"
    numbers = "..".join(f"{window[name]:.6g}" for name in ("low", "high") if name in window)
    return ", ".join(filter(None, (str(window.get("window", "")), numbers)))


def _rgb(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """uint8 or uint16 [C, H, W] or [K, C, H, W] to uint8[H, W, 3]."""
    first = image if image.ndim == 3 else image[0]
    values = (first if first.dtype == np.uint8 else first >> 8).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def sheet(told: list[Row], epochs: int) -> Image.Image:
    """Return the picture of some rows: captions to the left, an epoch a column."""
    head = 24
    size = (CAPTION + epochs * (SIDE + _GAP) + _GAP, head + len(told) * (SIDE + _GAP))
    whole = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(whole)
    for epoch in range(epochs):
        draw.text((CAPTION + _GAP + epoch * (SIDE + _GAP), 6), f"epoch {epoch}", _FAINT)
    for number, row in enumerate(told):
        top = head + number * (SIDE + _GAP)
        for place, (text, ink) in enumerate(_captions(row)):
            draw.text((_GAP, top + 16 * place), text, ink)
        for epoch, picture in enumerate(row["pictures"]):
            tile = Image.fromarray(picture)
            tile.thumbnail((SIDE, SIDE))
            whole.paste(tile, (CAPTION + _GAP + epoch * (SIDE + _GAP), top))
    return whole


def _captions(row: Row) -> Iterator[tuple[str, tuple[int, int, int]]]:
    texts = [
        f"sample {row['index']}",
        row["id"],
        f"label {row['label']}" + (f", {row['split']}" if row["split"] else ""),
    ]
    if "size" in row:
        texts += [f"{row['size'][0]} x {row['size'][1]}", f"window {row['window']}"]
    if "error" in row:
        texts.append(row["error"])
    for place, text in enumerate(texts):
        for start in range(0, len(text), 40):  # what is too long for a line goes on in the next
            yield text[start : start + 40].encode("latin-1", "replace").decode("latin-1"), _FAINT if place else _INK
