"""Decoded pixels to base images, by the arithmetic that a recipe asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import base_image
from dali_pipes.arithmetic.dali_base import dali_base_image
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]


def base_of(pixels: Pixels, recipe: Recipe, by_dali: bool = False) -> Pixels:
    """Return the base image of decoded pixels: uint8 or uint16 [H, W, C] to [C, h, w].

    Args:
        pixels: as decoded.
        recipe: says the base's size, fit and interpolation.
        by_dali: by the arithmetic of DALI's operators; else by the portable one.
    """
    if by_dali:
        return dali_base_image(pixels, recipe.base, recipe.fit, recipe.interpolation, recipe.emulate)
    if pixels.shape[2] == 3 and pixels.strides[2] == 0:  # one plane, repeated: resize it once
        one = base_image(pixels[..., :1], recipe.base, recipe.fit, recipe.interpolation)
        return np.repeat(one, 3, axis=0)
    return base_image(pixels, recipe.base, recipe.fit, recipe.interpolation)
