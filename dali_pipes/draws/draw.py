"""The draws of a batch: numbers from `Augment`'s ranges, one set a sample and view."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.draws.augment import NOTHING, OPERATION_OF, Augment
from dali_pipes.draws.numbers import random_bits
from dali_pipes.draws.policy import trivial

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]

FACTORS = ("scale", "brightness", "contrast", "saturation", "sharpness", "window_width")
"""The numbers that change nothing at 1; the others at 0."""

TRIES = 10
"""How often a resized crop is drawn until one fits into the picture; torchvision's number."""


@dataclass(frozen=True)
class Draws:
    """The random decisions of one batch: of N samples, or of N samples with K views each, view by view, N * K.

    Attributes:
        hflip, vflip: bool[N], mirror left to right, top to bottom.
        angle: float64[N], degrees counter-clockwise.
        scale: float64[N], magnification.
        shift_y, shift_x: float64[N], down and to the right, as parts of the height and width.
        brightness, contrast, saturation: float64[N], factors.
        hue: float64[N], degrees.
        shear_y, shear_x: float64[N], degrees: how far rows slant downwards, and columns to the right.
        turns: int64[N], quarter turns counter-clockwise, 0 to 3.
        crops: bool[N], whether a crop is taken; or None where none ever is.
        areas: float64[N, TRIES], the part of the picture's area that each try of a resized crop would show, or None.
        ratios: float64[N, TRIES] in [0, 1), where each try's ratio lies between the logarithms of the range's ends.
        crop_y, crop_x: float64[N] in [0, 1), where the crop lies between the ends of what is possible.
        gamma: float64[N], from -1 to 1, where the logarithm of the exponent lies between those of the range's ends.
        blur: float64[N], standard deviation in pixels; 0 for none.
        noise: float64[N], standard deviation as a part of full scale.
        solarize: float64[N], the part of the range, from the top, that is inverted.
        sharpness: float64[N], factor.
        window_center, window_width: float64[N], the part of the window's width by which its centre moves, and a
            factor of its width.
        posterize: int64[N], bits lost.
        grayscale, autocontrast: bool[N].
        noise_origin: uint64[N], where each sample's noise begins (see `arithmetic.noise`), or None without noise.
        erase_areas, erase_ratios: float64[N, TRIES], as `areas` and `ratios`, of the rectangle that is blotted out; or
            None. Areas of 0 for samples of which nothing is.
        erase_y, erase_x: float64[N] in [0, 1), its place.
        source: int64[N, 2], height and width of each sample's source; not drawn, but what the crops depend on. None
            where nothing depends on it.
    """

    hflip: Flags
    vflip: Flags
    angle: Floats
    scale: Floats
    shift_y: Floats
    shift_x: Floats
    brightness: Floats
    contrast: Floats
    saturation: Floats
    hue: Floats
    shear_y: Floats
    shear_x: Floats
    gamma: Floats
    blur: Floats
    noise: Floats
    solarize: Floats
    sharpness: Floats
    window_center: Floats
    window_width: Floats
    turns: Longs
    posterize: Longs
    grayscale: Flags
    autocontrast: Flags
    crops: Flags | None = None
    areas: Floats | None = None
    ratios: Floats | None = None
    crop_y: Floats | None = None
    crop_x: Floats | None = None
    noise_origin: npt.NDArray[np.uint64] | None = None
    erase_areas: Floats | None = None
    erase_ratios: Floats | None = None
    erase_y: Floats | None = None
    erase_x: Floats | None = None
    source: Longs | None = None


def repeated(draws: Draws, times: int) -> Draws:
    """Return the draws with those of each output repeated, next to each other."""
    found: dict[str, Any] = {each.name: getattr(draws, each.name) for each in fields(draws)}
    found = {name: None if values is None else values.repeat(times, axis=0) for name, values in found.items()}
    return Draws(**found)


class _Numbers:
    """The numbers of N samples with K views each, by the names of what they are for."""

    def __init__(self, augment: Augment, seed: int, epoch: int, samples: Longs, views: int) -> None:
        self.augment, self.count = augment, len(samples) * views
        self._arguments = (seed, epoch, samples, views)

    def bits(self, name: str) -> npt.NDArray[np.uint64]:
        """Return uint64[N * K], uniform."""
        seed, epoch, samples, views = self._arguments
        each = [random_bits(seed, epoch, name if not k else f"{name} of view {k}", samples) for k in range(views)]
        return each[0] if views == 1 else np.stack(each, axis=1).reshape(-1)

    def uniform(self, name: str) -> Floats:
        """Return float64[N * K] in [0, 1)."""
        return (self.bits(name) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    # What does not vary is not drawn, and made once: most recipes vary little, and the warm path is short.
    def flags(self, name: str, probability: float) -> Flags:
        """Return bool[N * K], true with that probability."""
        if not probability:
            return _alike(self.count, False)
        return self.uniform(name) < probability

    def applied(self, operation: str) -> Flags | None:
        """Whether an operation is applied, by its probability; None for always."""
        chance = self.augment.chance(operation)
        return None if chance == 1.0 else self.uniform(f"whether {operation}") < chance

    def between(self, name: str, low: float, high: float) -> Floats:
        """Return float64[N * K] from a range, or what changes nothing where the operation is not applied."""
        still = 1.0 if name in FACTORS else 0.0
        drawn = (
            _alike(self.count, low, math.copysign(1.0, low)) if low == high else low + (high - low) * self.uniform(name)
        )
        if low == high == still or (applied := self.applied(OPERATION_OF.get(name, name))) is None:
            return drawn
        return np.where(applied, drawn, still)

    def tries(self, what: str, thing: str) -> Floats:
        """Return float64[N * K, TRIES] in [0, 1)."""
        return np.stack([self.uniform(f"{what} of {thing} {i}") for i in range(TRIES)], axis=1)


def draw(augment: Augment | None, seed: int, epoch: int, samples: Longs, views: int = 1) -> Draws:
    """Draw what varies of `samples` (int64[N]) in this epoch; without `augment` what changes nothing.

    With K views the result holds N * K, the views of a sample next to each other. The first view is drawn as without
    views.
    """
    if augment is None or augment == NOTHING:
        return _still(len(samples) * views)
    return _draw(augment, seed, epoch, samples, views)


@functools.lru_cache(maxsize=16)
def _still(count: int) -> Draws:
    """Return the draws that change nothing."""
    return _draw(NOTHING, 0, 0, np.zeros(count, np.int64), 1)


@functools.lru_cache(maxsize=128, typed=True)
def _alike(count: int, value: Any, sign: float = 1.0) -> npt.NDArray[Any]:
    """Return [count] of one value, read-only, because many draws share it; `sign` tells -0.0 from 0.0."""
    made = np.full(count, value)
    made.flags.writeable = False
    return made


def _draw(augment: Augment, seed: int, epoch: int, samples: Longs, views: int) -> Draws:
    numbers = _Numbers(augment, seed, epoch, samples, views)
    ranges: dict[str, Any] = {name: numbers.between(name, *ends) for name, ends in augment.ranges.items()}
    turns = posterize = _alike(numbers.count, 0)
    if augment.quarter_turns:
        turned = numbers.flags("whether quarter_turns", augment.quarter_turns)
        turns = np.where(turned, 1 + (numbers.uniform("quarter_turns") * 3).astype(np.int64), 0)
    if augment.posterize:
        posterize = numbers.between("posterize", 0.0, augment.posterize + 1.0).astype(np.int64)
    drawn = Draws(
        hflip=numbers.flags("hflip", augment.horizontal_flip),
        vflip=numbers.flags("vflip", augment.vertical_flip),
        turns=turns,
        posterize=posterize,
        grayscale=numbers.flags("grayscale", augment.grayscale),
        autocontrast=numbers.flags("autocontrast", augment.autocontrast),
        noise_origin=numbers.bits("noise of each pixel") if augment.noise else None,
        **ranges,
        **_crops(numbers),
        **_erasing(numbers),
    )
    return drawn if augment.policy is None else trivial(drawn, numbers.uniform)


def _crops(numbers: _Numbers) -> dict[str, Any]:
    augment = numbers.augment
    if not augment.crops:
        return {}
    found: dict[str, Any] = {name: numbers.uniform(name) for name in ("crop_y", "crop_x")}
    applied = numbers.applied("crop" if augment.crop else "resized_crop")
    found["crops"] = np.ones(numbers.count, np.bool_) if applied is None else applied
    if augment.resized_crop is not None:
        least, most = augment.resized_crop
        found["areas"] = least + (most - least) * numbers.tries("area", "crop")
        found["ratios"] = numbers.tries("ratio", "crop")
    return found


def _erasing(numbers: _Numbers) -> dict[str, Any]:
    if numbers.augment.erasing is None:
        return {}
    least, most = numbers.augment.erasing
    found: dict[str, Any] = {name: numbers.uniform(name) for name in ("erase_y", "erase_x")}
    areas = least + (most - least) * numbers.tries("area", "erasing")
    if (applied := numbers.applied("erasing")) is not None:
        areas = np.where(applied[:, None], areas, 0.0)
    return {**found, "erase_areas": areas, "erase_ratios": numbers.tries("ratio", "erasing")}
