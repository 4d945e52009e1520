"""What may vary at random, as data: `Augment`, its checks, and its ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from dali_pipes.errors import ConfigError
from dali_pipes.spelling import Spelled

Pair = tuple[float, float]


@dataclass(frozen=True)
class Augment(Spelled):
    """What varies at random from epoch to epoch, applied after the cache. Nothing varies by default.

    The order is fixed: crop, quarter turn, flips, then shear, rotation, scale and shift about the centre (all of it one
    resampling); brightness, contrast, saturation, hue and grayscale (one colour map); blur; sharpness; autocontrast;
    gamma, solarize and posterize (one table); noise; erasing. Numbers are drawn uniformly from their ranges, unless it
    is said otherwise.

    Attributes:
        horizontal_flip: probability in [0, 1] that a sample is mirrored left to right.
        vertical_flip: probability in [0, 1] that a sample is mirrored top to bottom.
        rotation: largest angle either way about the centre, in degrees, 0 to 180.
        scale: (smallest, largest) magnification about the centre, from 0.1 to 10.
        shift: largest move either way, as a part of the height and of the width, 0 to 1.
        brightness, contrast, saturation: largest deviation of a factor from 1, 0 to 9; no factor falls below 0.
            Contrast is about the middle of the range of values.
        hue: largest turn of the colour circle either way, in degrees, 0 to 180.
        resized_crop: (least, most) part of the picture's area that a crop shows, in (0, 1], or None. The crop is drawn
            as torchvision's `RandomResizedCrop` draws it, in source pixels, from the base image, and resized to the
            output.
        ratio: (least, most) width by height of such a crop, in source pixels, 0.1 to 10; drawn uniformly in its
            logarithm.
        crop: a window of the output's size at a random place of a larger base image, not resized. A sample to
            which it is not applied shows the whole base image, resized to the output.
        quarter_turns: probability in [0, 1] that a sample is turned by 90, 180 or 270 degrees, each as likely.
        shear: largest slant either way of the columns, and of the rows, in degrees, 0 to 45.
        gamma: largest deviation of the exponent from 1, 0 to 9: drawn between 1 / (1 + gamma) and 1 + gamma, uniformly
            in its logarithm. Exponents below 1 brighten.
        blur: (least, most) standard deviation of a Gaussian blur, in output pixels, 0 to 5, or None.
        noise: largest standard deviation of added Gaussian noise, as a part of full scale, 0 to 1.
        erasing: (least, most) part of the output's area that a rectangle blots out, or None: drawn as torchvision's
            `RandomErasing` draws it; filled with the recipe's mean, black where it has none.
        grayscale: probability in [0, 1] that a sample loses its colours.
        window_jitter: largest move of the window's centre either way, as a part of its width, and largest deviation of
            a factor of its width from 1; 0 to 0.9. For recipes of depth 16 with a window, of DICOM's monochrome images.
        solarize: largest part of the range of values, from the top, that is inverted, 0 to 1.
        posterize: most bits of the eight that a value loses at its lower end, 0 to 7; drawn from 0 to that.
        autocontrast: probability in [0, 1] that each channel is stretched to the whole range.
        sharpness: largest deviation of a factor from 1, 0 to 9; 0 smooths, 1 changes nothing, 2 sharpens.
        policy: "trivial" for TrivialAugmentWide (Müller and Hutter, 2021): one operation of its thirteen that are here
            (all but equalize) a sample, of a strength drawn from its range; or None.
        probability: how likely each of the operations named is applied to a sample; those that are not named always
            are. A mapping, such as `{"rotation": 0.5}`.

    What comes from outside of the base image is black.

    Raises:
        ConfigError: a number outside its range.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    scale: Pair = (1.0, 1.0)
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    resized_crop: Pair | None = None
    ratio: Pair = (3 / 4, 4 / 3)
    crop: bool = False
    quarter_turns: float = 0.0
    shear: float = 0.0
    gamma: float = 0.0
    blur: Pair | None = None
    noise: float = 0.0
    erasing: Pair | None = None
    grayscale: float = 0.0
    solarize: float = 0.0
    posterize: int = 0
    autocontrast: float = 0.0
    sharpness: float = 0.0
    policy: str | None = None
    window_jitter: float = 0.0
    probability: Mapping[str, float] | tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name, (most, what) in _LARGEST.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), 0.0, most, what))
        for name, (least, most, what) in _PAIRS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _pair(name, getattr(self, name), least, most, what))
        if not isinstance(self.crop, bool):
            raise ConfigError(f"Augment(crop={self.crop!r}): give True or False.")
        object.__setattr__(self, "posterize", _bits(self.posterize))
        self._check_policy()
        if self.crop and self.resized_crop is not None:
            raise ConfigError("Augment(crop=True, resized_crop=...): give one of them; both say what a crop shows.")
        if self.resized_crop is None:  # what has no effect makes no difference
            object.__setattr__(self, "ratio", (3 / 4, 4 / 3))
        chances = _probabilities(self.probability)
        object.__setattr__(self, "probability", tuple(each for each in chances if self._asks_for(each[0])))

    def _check_policy(self) -> None:
        if self.policy not in (None, "trivial"):
            raise ConfigError(f"Augment(policy={self.policy!r}): allowed are 'trivial' and None.")
        if self.policy is None:
            return
        for f in fields(self):
            if f.name in POLICY_DRAWS and getattr(self, f.name) != f.default:
                raise ConfigError(
                    f"Augment(policy={self.policy!r}, {f.name}=...): the policy draws {f.name} itself; leave it out."
                )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Augment:
        """Return a preset by name, with some fields changed.

        >>> Augment.preset("photo", hue=10).hue
        10.0

        "mammography": flips, rotation up to 10 degrees, scale 0.9 to 1.1, shift up to 0.05, brightness and contrast by
        up to 0.1. "photo": what timm trains with: crops of 0.08 to 1 of the area, horizontal flip, and brightness,
        contrast and saturation by up to 0.4.

        Raises:
            ConfigError: no such preset, or a number outside its range.
        """
        if name not in PRESETS:
            raise ConfigError(f"Augment.preset({name!r}): allowed are {', '.join(map(repr, PRESETS))}.")
        return cls(**{**PRESETS[name], **changes})

    @property
    def crops(self) -> bool:
        """Whether a part of the base image is chosen: resized_crop or crop."""
        return self.crop or self.resized_crop is not None

    @property
    def warps(self) -> bool:
        """Whether pixels come to lie between pixels: rotation, scale, shift or shear."""
        still = self.rotation == 0 and self.scale == (1.0, 1.0) and self.shift == 0 and self.shear == 0
        return not still or self.policy is not None

    @property
    def mixes(self) -> bool:
        """Whether the channels of a pixel are mixed, which takes three: saturation, hue or grayscale."""
        return self.saturation > 0 or self.hue > 0 or self.grayscale > 0

    @property
    def recolours(self) -> bool:
        """Whether values change by a colour map: brightness, contrast, saturation, hue or grayscale."""
        return self.brightness > 0 or self.contrast > 0 or self.mixes or self.policy is not None

    @property
    def plans(self) -> bool:
        """Whether anything is asked for that only the portable arithmetic does, whatever the parity."""
        return self.crops or any(getattr(self, f.name) != f.default for f in fields(self) if f.name in _PORTABLE_ONLY)

    @property
    def ranges(self) -> dict[str, Pair]:
        """(low, high) of each number that `Draws` holds one of per sample, drawn uniformly."""
        return {
            "angle": (-self.rotation, self.rotation),
            "scale": self.scale,
            "shift_y": (-self.shift, self.shift),
            "shift_x": (-self.shift, self.shift),
            "brightness": _about_one(self.brightness),
            "contrast": _about_one(self.contrast),
            "saturation": _about_one(self.saturation),
            "hue": (-self.hue, self.hue),
            "shear_y": (-self.shear, self.shear),
            "shear_x": (-self.shear, self.shear),
            "gamma": (-1.0, 1.0) if self.gamma else (0.0, 0.0),
            "blur": self.blur or (0.0, 0.0),
            "noise": (0.0, self.noise),
            "solarize": (0.0, self.solarize),
            "sharpness": _about_one(self.sharpness),
            "window_center": (-self.window_jitter, self.window_jitter),
            "window_width": _about_one(self.window_jitter),
        }

    def _asks_for(self, operation: str) -> bool:
        default = next(f.default for f in fields(self) if f.name == operation)
        return bool(getattr(self, operation) != default)

    def chance(self, operation: str) -> float:
        """Return how likely an operation that is asked for is applied to a sample."""
        return dict(self.probability).get(operation, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are not at their defaults, as plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if "probability" in plain:
            plain["probability"] = dict(plain["probability"])
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


OPERATION_OF = {
    **{"window_center": "window_jitter", "window_width": "window_jitter"},
    "angle": "rotation",
    "shift_y": "shift",
    "shift_x": "shift",
    "shear_y": "shear",
    "shear_x": "shear",
}
"""The operation that a number of `Draws` belongs to, where the two have different names."""

_LARGEST = {
    **dict.fromkeys(
        ("horizontal_flip", "vertical_flip", "quarter_turns", "grayscale", "autocontrast"), (1.0, "a probability")
    ),
    **dict.fromkeys(("rotation", "hue"), (180.0, "an angle in degrees")),
    "shear": (45.0, "an angle in degrees"),
    "shift": (1.0, "a part of the picture's sides"),
    **dict.fromkeys(("noise", "solarize"), (1.0, "a part of the range of values")),
    **dict.fromkeys(("brightness", "contrast", "saturation", "sharpness"), (9.0, "a deviation of a factor from 1")),
    "gamma": (9.0, "a deviation of an exponent from 1"),
    "window_jitter": (0.9, "a part of the window's width"),
}
"""For each number: the largest allowed (the smallest is 0), and what it is."""

_PAIRS = {
    "scale": (0.1, 10.0, "a magnification"),
    "resized_crop": (1e-4, 1.0, "a part of the picture's area"),
    "ratio": (0.1, 10.0, "width by height"),
    "blur": (0.0, 5.0, "a standard deviation in pixels"),
    "erasing": (1e-4, 1.0, "a part of the output's area"),
}
"""For each pair: the least and the most allowed, and what it holds."""

_PORTABLE_ONLY = (
    *("quarter_turns", "shear", "gamma", "blur", "noise", "erasing", "grayscale", "solarize", "posterize"),
    *("autocontrast", "sharpness", "policy"),
)
"""The operations, besides crops, that no operator of DALI's is used for."""

POLICY_DRAWS = (
    *("rotation", "shift", "shear", "brightness", "contrast", "saturation", "solarize", "posterize", "autocontrast"),
    "sharpness",
)
"""The operations whose draws a policy makes."""

PRESETS: dict[str, dict[str, Any]] = {
    "mammography": {
        **{"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation": 10, "scale": (0.9, 1.1), "shift": 0.05},
        **{"brightness": 0.1, "contrast": 0.1},
    },
    "photo": {
        **{"horizontal_flip": 0.5, "resized_crop": (0.08, 1.0)},
        **{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    },
}
"""Settings by name."""

_WITH_CHANCE = (
    *("rotation", "scale", "shift", "shear", "crop", "resized_crop", "brightness", "contrast", "saturation", "hue"),
    *("gamma", "blur", "noise", "erasing", "solarize", "posterize", "sharpness", "window_jitter"),
)
"""The operations that `probability` may name."""


def _about_one(most: float) -> Pair:
    return max(0.0, 1.0 - most), 1.0 + most


def _number(name: str, value: Any, least: float, most: float, what: str) -> float:
    is_number = isinstance(value, Real)  # as NumPy's numbers are
    if not is_number or not least <= value <= most:
        raise ConfigError(f"Augment({name}={value!r}): it is {what}; give a number from {least:g} to {most:g}.")
    return float(value) + 0.0  # no -0.0


def _bits(value: Any) -> int:
    if not isinstance(value, Integral) or int(value) not in range(8):
        raise ConfigError(f"Augment(posterize={value!r}): it is a number of bits; give a whole number from 0 to 7.")
    return int(value)


def _pair(name: str, pair: Any, least: float, most: float, what: str) -> Pair:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ConfigError(f"Augment({name}={pair!r}): give (smallest, largest), each from {least:g} to {most:g}.")
    low, high = (_number(name, value, least, most, what) for value in pair)
    if low > high:
        raise ConfigError(f"Augment({name}={pair!r}): give the smaller number first.")
    return low, high


def _probabilities(given: Any) -> tuple[tuple[str, float], ...]:
    try:
        named = dict(given)
    except (TypeError, ValueError):
        raise ConfigError(f"Augment(probability={given!r}): give a mapping, such as {{'rotation': 0.5}}.") from None
    for name in named:
        if name not in _WITH_CHANCE:
            raise ConfigError(
                f"Augment(probability={given!r}): {name!r} has no probability of its own; "
                f"those that have are {', '.join(_WITH_CHANCE)}."
            )
    numbers = {name: _number("probability", value, 0.0, 1.0, "a probability") for name, value in named.items()}
    return tuple(sorted((name, value) for name, value in numbers.items() if value != 1.0))


NOTHING = Augment()
"""Nothing varies; made once, because checking its fields takes a tenth of a millisecond."""
