"""The portable arithmetic as Python functions that a DALI graph calls: lists of arrays in, a list of arrays out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import base_image
from dali_pipes.decode.luma import luma
from dali_pipes.draws import NOTHING
from dali_pipes.finish.finish import Finish
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]


def varying(recipe: Recipe) -> tuple[str, ...]:
    """Return the fields of `Changes`, besides the flips, that the recipe uses: the further inputs of `vary`."""
    if recipe.planned:
        return ("plan",)
    augment = recipe.augment or NOTHING
    return ("warp",) * augment.warps + ("colour",) * augment.recolours


class PortableOnCpu:
    """In PyTorch and NumPy, on threads of its own, for DALI calls from one.

    Args:
        recipe: what to compute.
        threads: how many share a batch.
    """

    def __init__(self, recipe: Recipe, threads: int) -> None:
        self._recipe = recipe
        self._finish = Finish(recipe)
        self._names = varying(recipe)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-graph")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True)

    def base_images(self, pictures: list[npt.NDArray[np.uint8]]) -> list[Pixels]:
        """uint8 [H, W, 3] to base images [C, h, w]."""
        return list(self._threads.map(self._base_image, pictures))

    def _base_image(self, pixels: npt.NDArray[np.uint8]) -> Pixels:
        recipe = self._recipe
        shaped = luma(pixels) if recipe.channels == 1 else pixels
        return base_image(shaped, recipe.base, recipe.fit, recipe.interpolation)

    def vary(self, images: list[Pixels], *values: list[Pixels]) -> list[Pixels]:
        """Warp and recolour flipped base images; `values` are those that `varying` names.

        With a plan, all that it says is done to base images that are not flipped.
        """
        if self._recipe.planned:
            return list(self._threads.map(self._finish.planned, images, *values))
        given = dict(zip(self._names, values))
        nothing = [None] * len(images)
        return list(
            self._threads.map(self._finish.vary, images, given.get("warp", nothing), given.get("colour", nothing))
        )


class PortableOnGpu:
    """The same by CUDA kernels, of and to CuPy arrays on the device that is current.

    Args:
        recipe: what to compute.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._names = varying(recipe)

    def close(self) -> None:
        """There is nothing to end."""

    def base_images(self, pictures: list[Any]) -> list[Any]:
        """As `PortableOnCpu.base_images`."""
        from dali_pipes.arithmetic.kernels import base_images

        recipe = self._recipe
        with _borrowed_stream():
            return base_images(pictures, recipe.base, recipe.fit, recipe.interpolation, gray=recipe.channels == 1)

    def vary(self, images: list[Any], *values: list[Any]) -> list[Any]:
        """As `PortableOnCpu.vary`; a plan comes back to main memory, where its tables are made."""
        from dali_pipes.arithmetic.kernels import varied_images
        from dali_pipes.arithmetic.kernels_plan import planned_images

        if self._recipe.planned:
            size = (self._recipe.height, self._recipe.width)
            with _borrowed_stream():
                return planned_images(images, values[0], size, self._recipe.interpolation)
        given = dict(zip(self._names, values))
        with _borrowed_stream():
            return varied_images(images, given.get("warp"), given.get("colour"))


@contextmanager
def _borrowed_stream() -> Iterator[None]:
    """Give DALI's stream back if an exception leaves a GPU Python function.

    DALI puts the pointer of its own stream into a CuPy `Stream`, and takes it out again only after a success. CuPy
    destroys the stream of an object that goes away; DALI keeps streams for later pipelines, and would lease a dead one.
    """
    from dali_pipes.arithmetic.kernels import current_stream

    try:
        yield
    except BaseException:
        current_stream().ptr = 0
        raise
