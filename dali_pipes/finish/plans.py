"""From a recipe and draws to what the arithmetic reads.

That is one record of `arithmetic.plan` per output, and where a source pixel goes.

Every output is one chain of affine maps, from source to output pixels:

    source ──> base image (`fit`) ──> crop ──> quarter turn, flips ──> shear, rotation, scale and shift ──> output

`Plans` composes it once; images, masks and `matrix` follow the same numbers.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import maps
from dali_pipes.arithmetic.affine import matrices, quantise, shrinking
from dali_pipes.arithmetic.blur import blur_weights, gain
from dali_pipes.arithmetic.colour import colour_maps, precision
from dali_pipes.arithmetic.crops import Shown, erased, resized_crops, shown
from dali_pipes.arithmetic.curves import exponents, thresholds
from dali_pipes.arithmetic.noise import amplitudes
from dali_pipes.arithmetic.plan import PLAN, Plan
from dali_pipes.draws import NOTHING, Draws
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
        self._augment = recipe.augment or NOTHING
        self._size = (recipe.height, recipe.width)
        self._count = len(draws.hflip)

    @cached_property
    def records(self) -> Plan:
        """What is done to each base image: N records of `PLAN`."""
        records, draws = self.placed.copy(), self._draws
        if self._augment.recolours:
            channels = self._recipe.channels
            saturation = np.where(draws.grayscale, 0.0, draws.saturation)
            factors = (draws.brightness, draws.contrast, saturation, draws.hue)
            colours = colour_maps(channels, self._recipe.full_scale, *factors)
            if draws.grayscale.any():  # one row for all channels, so that rounding leaves no colour
                colours[draws.grayscale] = colours[draws.grayscale][:, 1:2]
            unit = np.eye(channels, channels + 1, dtype=np.int64) << precision(self._recipe.full_scale)
            records["coloured"] = (colours != unit).any(axis=(1, 2))  # others would come out as they are
            records["colour"][:, : channels * (channels + 1)] = colours.reshape(self._count, -1)
        self._add_filters(records)
        return records

    @cached_property
    def placed(self) -> Plan:
        """Where each base image goes: N records of `PLAN` without what changes values."""
        records, draws = np.zeros(self._count, PLAN), self._draws
        records["box"], records["turns"] = self.boxes, draws.turns
        records["flips"] = draws.hflip + 2 * draws.vflip
        if self._augment.warps:
            warped = self._warped
            if warped.any():
                doublings = shrinking(self._to_base)
                coefficients = quantise(self._to_base, self._size, doublings)
                records["warped"] = warped
                records["doublings"] = np.where(warped, doublings, 0)
                records["warp"] = np.where(warped[:, None], coefficients, 0)
        return records

    def _add_filters(self, records: Plan) -> None:
        """Add what comes after the colour map."""
        draws, augment, full_scale = self._draws, self._augment, self._recipe.full_scale
        if augment.blur is not None:
            records["blur"] = blur_weights(draws.blur)
        records["sharpen"] = gain(draws.sharpness)
        records["autocontrast"] = draws.autocontrast
        if augment.gamma:
            records["exponent"] = exponents(augment.gamma, draws.gamma)
        records["threshold"] = thresholds(draws.solarize, full_scale)
        records["lost"] = draws.posterize
        if draws.noise_origin is not None:
            records["noise"], records["origin"] = amplitudes(draws.noise, full_scale), draws.noise_origin
        tries, ratios, y, x = draws.erase_areas, draws.erase_ratios, draws.erase_y, draws.erase_x
        if tries is not None and ratios is not None and y is not None and x is not None:
            records["erased"] = erased(self._size, tries, ratios, np.stack([y, x], axis=1))
            means = self._recipe.normalisation[0] if self._recipe.normalisation else (0.0,) * self._recipe.channels
            records["fill"][:, : len(means)] = np.clip(np.rint(np.array(means) * full_scale), 0, full_scale)

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
        else:
            size = np.where((draws.turns % 2 == 1)[:, None], self._size[::-1], self._size)
            free = whole[2:] - size + 1
            chosen = np.concatenate([np.minimum((at * free).astype(np.int64), free - 1), size], axis=1)
        return np.where(draws.crops[:, None], chosen, boxes)

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
