"""From a recipe and draws to what the arithmetic reads: one record of `arithmetic.plan` per output, and where a source
pixel goes.

Every output is one chain of affine maps, from source to output pixels:

    source ──> base image (`fit`) ──> crop ──> quarter turn, flips ──> shear, rotation, scale and shift ──> output

`Plans` composes it once; images, masks and `matrix` follow the same numbers.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import maps
from dali_pipes.arithmetic.affine import finer, matrices, quantise, shrinking
from dali_pipes.arithmetic.colour import colour_maps
from dali_pipes.arithmetic.crops import Shown, resized_crops, shown
from dali_pipes.arithmetic.plan import PLAN, Plan
from dali_pipes.draws import Augment, Draws
from dali_pipes.errors import ConfigError
from dali_pipes.recipe import Recipe

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


class Plans:
    """The outputs of one batch.

    Args:
        recipe: what is asked for.
        draws: of N outputs.
    """

    def __init__(self, recipe: Recipe, draws: Draws) -> None:
        self._recipe, self._draws = recipe, draws
        self._augment = recipe.augment or Augment()
        self._size = (recipe.height, recipe.width)
        self._count = len(draws.hflip)

    @cached_property
    def records(self) -> Plan:
        """What is done to each base image: N records of `PLAN`."""
        records, draws = np.zeros(self._count, PLAN), self._draws
        records["box"], records["turns"] = self.boxes, draws.turns
        records["flips"] = draws.hflip + 2 * draws.vflip
        if self._augment.warps:
            warped = self._warped
            if warped.any():
                doublings = shrinking(self._to_base)
                records["warped"] = warped
                records["doublings"] = np.where(warped, doublings, 0)
                records["warp"] = np.where(warped[:, None], quantise(finer(self._to_base, doublings)), 0)
        if self._augment.recolours:
            channels = self._recipe.channels
            factors = (draws.brightness, draws.contrast, draws.saturation, draws.hue)
            colours = colour_maps(channels, self._recipe.full_scale, *factors)
            records["coloured"] = 1
            records["colour"][:, : channels * (channels + 1)] = colours.reshape(self._count, -1)
        return records

    @cached_property
    def boxes(self) -> Longs:
        """int64[N, 4]: top, left, height and width of the part of each base image that is shown."""
        whole = np.array([0, 0, *self._recipe.base], np.int64)
        boxes = np.tile(whole, (self._count, 1))
        draws = self._draws
        if draws.crops is None or draws.crop_y is None or draws.crop_x is None:
            return boxes
        at = np.stack([draws.crop_y, draws.crop_x], axis=1)
        if draws.areas is not None and draws.ratios is not None:
            chosen = resized_crops(self.shown, self._augment.ratio, draws.areas, draws.ratios, at)
            return np.where(draws.crops[:, None], chosen, boxes)
        size = np.where((draws.turns % 2 == 1)[:, None], self._size[::-1], self._size)
        free = whole[2:] - size + 1
        return np.concatenate([np.minimum((at * free).astype(np.int64), free - 1), size], axis=1)

    @cached_property
    def shown(self) -> Shown:
        """What the base images show of their sources."""
        if self._draws.source is None:
            raise ConfigError("the sizes of the sources are not known; crops and matrices depend on them")
        return shown(self._draws.source, self._recipe.base, self._recipe.fit)

    @cached_property
    def matrix(self) -> Doubles:
        """float64[N, 2, 3], from source to output pixels, (x, y) with pixel centres at halves."""
        part = self.shown
        to_base = maps.scaled(part.scale[:, 1], part.scale[:, 0], part.offset[:, 1], part.offset[:, 0])
        return maps.after(maps.inverse(self._to_base), to_base)

    @property
    def _warped(self) -> npt.NDArray[np.bool_]:
        draws = self._draws
        moved = (draws.angle, draws.shift_y, draws.shift_x, draws.shear_y, draws.shear_x)
        warped: npt.NDArray[np.bool_] = draws.scale != 1.0
        for values in moved:
            warped = warped | (values != 0.0)
        return warped

    @cached_property
    def _to_base(self) -> Doubles:
        """From output pixels to base pixels."""
        draws, size = self._draws, self._size
        top, left, height, width = self.boxes.astype(np.float64).T
        odd = draws.turns % 2 == 1
        before = [np.where(odd, size[1 - i], size[i]).astype(np.float64) for i in (0, 1)]
        found = maps.after(
            maps.scaled(width / before[1], height / before[0], left, top),
            maps.after(maps.turned_back(draws.turns, size), maps.flipped(draws.hflip, draws.vflip, size)),
        )
        if not self._augment.warps:
            return found
        straight = maps.sheared_back(draws.shear_y, draws.shear_x, size)
        still = matrices(size, draws.angle, draws.scale, draws.shift_y, draws.shift_x)
        return maps.after(found, maps.after(straight, still))
