"""Every random number of the product, as plain data drawn on the host.

A number is a pure function of (seed, epoch, operation, sample): the 64-bit finaliser of SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) applied to a counter whose origin is the BLAKE2b
hash of (seed, epoch, operation). No generator object exists, so nothing has to be saved to resume, a sample's draw
does not depend on its batch, and the numbers do not change with the NumPy version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Floats = npt.NDArray[np.float64]


def random_bits(seed: int, epoch: int, operation: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64 random bits per sample.

    Args:
        seed, epoch: any integers.
        operation: the name of what the numbers are for; different names give independent numbers.
        samples: int64[N], indices of samples in the manifest.

    Returns:
        uint64[N], uniform.
    """
    name = f"{seed}\0{epoch}\0{operation}".encode()
    origin = np.uint64(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        z = origin + (samples.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        bits: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return bits


def uniform(seed: int, epoch: int, operation: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """float64[N] in [0, 1), multiples of 2^-53; arguments as for `random_bits`."""
    bits = random_bits(seed, epoch, operation, samples) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Augment:
    """What varies at random from epoch to epoch, applied after the cache, in this order: flips, rotation with scale
    and shift, colour. Nothing varies by default. Each number is drawn uniformly from its range.

    Attributes:
        horizontal_flip: probability in [0, 1] that a sample is mirrored left to right.
        vertical_flip: probability in [0, 1] that a sample is mirrored top to bottom.
        rotation: largest angle either way about the centre, in degrees, 0 to 180.
        scale: (smallest, largest) magnification about the centre, from 0.1 to 10.
        shift: largest move either way, as a part of the height and of the width, 0 to 1.
        brightness, contrast, saturation: largest deviation of a factor from 1, 0 to 9; no factor falls below 0.
            Contrast is about the middle of the range of values.
        hue: largest turn of the colour circle either way, in degrees, 0 to 180.

    What comes from outside of the picture is black.

    Raises:
        ConfigError: a number outside its range.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, (most, what) in _LARGEST.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), 0.0, most, what))
        pair = self.scale
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(f"Augment(scale={pair!r}): give (smallest, largest), each from 0.1 to 10.")
        low, high = (_number("scale", value, 0.1, 10.0, "a magnification") for value in pair)
        if low > high:
            raise ConfigError(f"Augment(scale={pair!r}): give the smaller number first.")
        object.__setattr__(self, "scale", (low, high))

    @property
    def warps(self) -> bool:
        """Whether pixels come to lie between pixels: rotation, scale or shift."""
        return self.rotation > 0 or self.scale != (1.0, 1.0) or self.shift > 0

    @property
    def mixes(self) -> bool:
        """Whether the channels of a pixel are mixed: saturation or hue."""
        return self.saturation > 0 or self.hue > 0

    @property
    def recolours(self) -> bool:
        """Whether values change: brightness, contrast, saturation or hue."""
        return self.brightness > 0 or self.contrast > 0 or self.mixes

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each number that `Draws` holds besides the flips."""
        return {
            "angle": (-self.rotation, self.rotation),
            "scale": self.scale,
            "shift_y": (-self.shift, self.shift),
            "shift_x": (-self.shift, self.shift),
            "brightness": (max(0.0, 1.0 - self.brightness), 1.0 + self.brightness),
            "contrast": (max(0.0, 1.0 - self.contrast), 1.0 + self.contrast),
            "saturation": (max(0.0, 1.0 - self.saturation), 1.0 + self.saturation),
            "hue": (-self.hue, self.hue),
        }

    def as_dict(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


_LARGEST = {
    **dict.fromkeys(("horizontal_flip", "vertical_flip"), (1.0, "a probability")),
    **dict.fromkeys(("rotation", "hue"), (180.0, "an angle in degrees")),
    "shift": (1.0, "a part of the picture's sides"),
    **dict.fromkeys(("brightness", "contrast", "saturation"), (9.0, "a deviation of a factor from 1")),
}
"""For each number: the largest allowed (the smallest is 0), and what it is."""


def _number(name: str, value: Any, least: float, most: float, what: str) -> float:
    is_number = isinstance(value, Real)  # as NumPy's numbers are
    if not is_number or not least <= value <= most:
        raise ConfigError(f"Augment({name}={value!r}): it is {what}; give a number from {least:g} to {most:g}.")
    return float(value) + 0.0  # no -0.0


@dataclass(frozen=True)
class Draws:
    """The random decisions of one batch of N samples.

    Attributes:
        hflip, vflip: bool[N], mirror left to right, top to bottom.
        angle: float64[N], degrees counter-clockwise.
        scale: float64[N], magnification.
        shift_y, shift_x: float64[N], down and to the right, as parts of the height and width.
        brightness, contrast, saturation: float64[N], factors.
        hue: float64[N], degrees.
    """

    hflip: npt.NDArray[np.bool_]
    vflip: npt.NDArray[np.bool_]
    angle: Floats
    scale: Floats
    shift_y: Floats
    shift_x: Floats
    brightness: Floats
    contrast: Floats
    saturation: Floats
    hue: Floats


def draw(augment: Augment | None, seed: int, epoch: int, samples: npt.NDArray[np.int64]) -> Draws:
    """The draws of `samples` (int64[N]) in this epoch; without `augment` those that change nothing."""
    augment = augment or Augment()

    # What does not vary is not drawn: most recipes vary little, and the warm path is short.
    def flips(name: str, probability: float) -> npt.NDArray[np.bool_]:
        if not probability:
            return np.zeros(len(samples), np.bool_)
        return uniform(seed, epoch, name, samples) < probability

    def numbers(name: str, low: float, high: float) -> Floats:
        if low == high:
            return np.full(len(samples), low)
        return low + (high - low) * uniform(seed, epoch, name, samples)

    return Draws(
        hflip=flips("hflip", augment.horizontal_flip),
        vflip=flips("vflip", augment.vertical_flip),
        **{name: numbers(name, *ends) for name, ends in augment.ranges.items()},
    )
