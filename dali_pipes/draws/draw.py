"""The draws of a batch: numbers from `Augment`'s ranges, one set a sample and view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.draws.augment import OPERATION_OF, Augment
from dali_pipes.draws.numbers import uniform

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]

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
    turns: Longs
    crops: Flags | None = None
    areas: Floats | None = None
    ratios: Floats | None = None
    crop_y: Floats | None = None
    crop_x: Floats | None = None
    source: Longs | None = None


def draw(augment: Augment | None, seed: int, epoch: int, samples: Longs, views: int = 1) -> Draws:
    """Draw what varies of `samples` (int64[N]) in this epoch; without `augment` what changes nothing.

    With K views the result holds N * K, the views of a sample next to each other. The first view is drawn as without
    views.
    """
    augment = augment or Augment()

    def numbers(name: str) -> Floats:
        each = [uniform(seed, epoch, name if not k else f"{name} of view {k}", samples) for k in range(views)]
        return each[0] if views == 1 else np.stack(each, axis=1).reshape(-1)

    # What does not vary is not drawn: most recipes vary little, and the warm path is short.
    def flags(name: str, probability: float) -> Flags:
        if not probability:
            return np.zeros(len(samples) * views, np.bool_)
        return numbers(name) < probability

    def between(name: str, low: float, high: float) -> Floats:
        if low == high:
            return np.full(len(samples) * views, low)
        drawn = low + (high - low) * numbers(name)
        operation = OPERATION_OF.get(name, name)
        if (chance := augment.chance(operation)) == 1.0:
            return drawn
        applied = numbers(f"whether {operation}") < chance
        return np.where(applied, drawn, 1.0 if name in _FACTORS else 0.0)

    ranges: dict[str, Any] = {name: between(name, *ends) for name, ends in augment.ranges.items()}
    turns = np.zeros(len(samples) * views, np.int64)
    if augment.quarter_turns:
        turned = flags("whether quarter_turns", augment.quarter_turns)
        turns = np.where(turned, 1 + (numbers("quarter_turns") * 3).astype(np.int64), 0)
    return Draws(
        hflip=flags("hflip", augment.horizontal_flip),
        vflip=flags("vflip", augment.vertical_flip),
        **ranges,
        turns=turns,
        **_crops(augment, numbers),
    )


_FACTORS = ("scale", "brightness", "contrast", "saturation")
"""The numbers that change nothing at 1; the others at 0."""


def _crops(augment: Augment, numbers: Callable[[str], Floats]) -> dict[str, Any]:
    if not augment.crops:
        return {}
    found: dict[str, Any] = {name: numbers(name) for name in ("crop_y", "crop_x")}
    found["crops"] = np.ones(len(found["crop_y"]), np.bool_)
    if augment.resized_crop is not None:
        least, most = augment.resized_crop
        areas, ratios = (
            np.stack([numbers(f"{what} of crop {i}") for i in range(TRIES)], axis=1) for what in ("area", "ratio")
        )
        found |= {"areas": least + (most - least) * areas, "ratios": ratios}
        if (chance := augment.chance("resized_crop")) < 1.0:
            found["crops"] = numbers("whether resized_crop") < chance
    return found
