"""What a recipe is cut into, and the output of each part, sample by sample.

    decode      file to pixels; only plain JPEGs have more than one decoder (see `decoding`)
    window      stored values to 8 bits; one code, on the host, whatever the backend
    geometry    resize, crop or pad: the base image
    photometry  what varies at random
    normalise   the network's input

The last three are run by a `Loader` each, with what comes after the stage left out of its recipe; so they are the very
graphs and functions that training uses.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.loader import Loader
from dali_pipes.manifest import Manifest
from dali_pipes.recipe import Recipe

STAGES = ("decode", "window", "geometry", "photometry", "normalise")
"""All stages, in the order of the flow."""


def stage_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """The recipes whose outputs are the stages from "geometry" on; stages in which nothing happens are left out."""
    found = {"geometry": replace(recipe, mean=None, std=None, augment=None)}
    if recipe.augment is not None:
        found["photometry"] = replace(recipe, mean=None, std=None)
    if recipe.normalisation is not None:
        found["normalise"] = recipe
    return found


@dataclass(frozen=True)
class Sample:
    """One sample's output: its position in the manifest, and [C, H, W]."""

    index: int
    image: npt.NDArray[Any]


class Stream:
    """The outputs of one backend at one stage, in manifest order; samples that do not decode are left out.

    Args:
        manifest, recipe: what to load; the recipe of the stage.
        backend: its name.
        loading: further arguments of `Loader`.
    """

    def __init__(self, manifest: Manifest, recipe: Recipe, backend: str, **loading: Any) -> None:
        self._loader = Loader(manifest, recipe, backend=backend, on_error="skip", prefetch=1, **loading)
        self._samples = self._read()
        self._next = next(self._samples, None)

    def take(self, index: int) -> npt.NDArray[Any] | None:
        """The output for a sample, or None if it has none; call with growing numbers."""
        if self._next is None or self._next.index != index:
            return None
        image = self._next.image
        self._next = next(self._samples, None)
        return image

    def failures(self) -> dict[int, str]:
        """The samples that could not be decoded so far, with their errors."""
        return self._loader.failures()

    def close(self) -> None:
        """Ends the loader."""
        self._samples.close()
        self._loader.close()

    def _read(self) -> Generator[Sample, None, None]:
        for batch in self._loader:
            images = batch.image.cpu().numpy()
            for index, image in zip(batch.index.tolist(), images):
                yield Sample(index, image)


def images(manifest: Manifest, recipe: Recipe, backend: str, **loading: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(position, [C, H, W]) of every sample that decodes."""
    stream = Stream(manifest, recipe, backend, **loading)
    try:
        for index in range(len(manifest)):
            image = stream.take(index)
            if image is not None:
                yield index, np.asarray(image)
    finally:
        stream.close()
