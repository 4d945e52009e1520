"""The whole pixel policy of a run, as data: what happens between a file's bytes and the tensor that a model sees.

Two digests follow from it. `digest` names the output pixels; `base_digest` names the part that is decided before the
cache (decode, window, geometry), so changing the normalisation or the augmentation keeps every cached image.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch

from dali_pipes.decode import DecodePolicy, PercentileWindow, Window, window_from_dict
from dali_pipes.draws import NOTHING, Augment
from dali_pipes.errors import ConfigError
from dali_pipes.names import CHOICES
from dali_pipes.served import Served
from dali_pipes.spelling import Spelled

LARGEST_STD = 10.0
"""Deviations beyond it are meant in levels of 255: full scale is 1.0, and spreads of values are a fraction of it."""

DEFAULT_WINDOW = PercentileWindow()

BASE_FIELDS = ("size", "channels", "fit", "window", "interpolation", "depth", "reduce")
"""The fields that decide a base image; the others apply after the cache."""

MAX_SIDE = 16384
"""Largest height or width of an output image, pixels."""

MOST_VIEWS = 64
"""Largest number of views of a sample."""


@dataclass(frozen=True)
class Recipe(Served, Spelled):
    """How files become tensors. Frozen and hashable; equal recipes give equal bits.

    Attributes:
        size: (height, width) of the output in pixels, or one integer for both.
        channels: 3 (RGB; gray is repeated) or 1 (gray; colour by ITU-R 601 weights, as Pillow's "L").
        fit: "stretch" to the size; "crop": the short side to the size, then the centre; "pad": letterbox on black.
        window: how stored values of more than 8 bits become 8: `PercentileWindow`, `FixedWindow`, `VOIWindow`, or
            None for the full range of the stored bits. Images that are 8-bit already ignore it.
        mean, std: one number for all channels or one each, in units of full scale (1.0 is 255, or 65535 at depth
            16). Both None: the integers come out as they are.
        interpolation: "bilinear" or "bicubic", always antialiased.
        depth: bits of a base image, 8 or 16. At 16 DICOM keeps its modality values, and `window` (if any) is applied
            when a sample is read, so that trying another one decodes nothing.
        augment: what varies at random per epoch, or None.
        parity: "exact": the same bits from every backend; "fast": DALI's native operators. (DALI resizes JPEGs only
            where nothing is cached: the base images of a cache are the portable ones under either.)
        emulate: under "fast", the device whose operators `backend="torch"` and `ImageDataset` reproduce; DALI's own
            backends take no notice. "dali-cpu": bit for bit. "dali-gpu": for a model that DALI fed on a GPU; resizing
            and normalisation as read from machine code, unverified on hardware. JPEGs are decoded by libjpeg-turbo
            either way, for nvJPEG has no twin.
        reduce: decode JPEG 2000 at its smallest resolution level that is still at least the base's size: several
            times faster, with other pixels than a full decode, and so with cache entries of its own.
        base_size: (height, width) of the base image, or one integer for both: what is cached, and what crops are cut
            from, so that another output size, crop or augmentation decodes nothing. None: the output's size. `fit`
            brings the source to the base: "stretch" squeezes all of it in, "crop" keeps its aspect ratio and cuts what
            stands over, "pad" keeps the ratio and leaves black. A crop's aspect ratio is meant in source pixels under
            each of them, and under "pad" no resized crop shows the black. Without crops the output is the base image
            resized to `size` (stretched, should their aspect ratios differ).
        views: independent draws of each sample, 1 to 64: with K above 1 `batch.image` is [N, K, C, H, W]. Each sample
            is fetched once.
        dtype: of normalised outputs: "float32", "float16" or "bfloat16". The latter are the float32 values rounded once
            more, to nearest, ties to even, with the same bits from every backend.
        memory_format: "contiguous" (planes), or "channels_last", as convolutions on tensor cores prefer it.

    Raises:
        ConfigError: a value outside of what is allowed; the message lists it.

    >>> Recipe(size=224).size
    (224, 224)
    >>> Recipe(size=224) == Recipe.from_json(Recipe(size=224).to_json())
    True
    """

    size: tuple[int, int] | int
    channels: int = 3
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    window: Window | None = DEFAULT_WINDOW
    mean: tuple[float, ...] | float | None = None
    std: tuple[float, ...] | float | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    depth: int = 8
    augment: Augment | None = None
    parity: Literal["exact", "fast"] = "exact"
    emulate: Literal["dali-cpu", "dali-gpu"] = "dali-cpu"
    reduce: bool = False
    base_size: tuple[int, int] | int | None = None
    views: int = 1
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"Recipe({name}={value!r}): allowed are {', '.join(map(repr, allowed))}.")
            object.__setattr__(self, name, allowed[allowed.index(value)])  # 1.0 and True are the 1 that is meant
        if self.window is not None and not isinstance(self.window, Window):
            raise ConfigError(
                f"Recipe(window={self.window!r}): give a PercentileWindow, FixedWindow, VOIWindow or None."
            )
        if self.emulate != "dali-cpu" and self.parity == "exact":
            raise ConfigError(f"Recipe(emulate={self.emulate!r}): exact parity has one arithmetic; give parity='fast'.")
        object.__setattr__(self, "size", _size(self.size))
        if self.base_size is not None:
            base = _size(self.base_size, "base_size")
            object.__setattr__(self, "base_size", None if base == self.size else base)
        if not _is_whole(self.views) or not 1 <= self.views <= MOST_VIEWS:
            raise ConfigError(f"Recipe(views={self.views!r}): give a whole number from 1 to {MOST_VIEWS}.")
        object.__setattr__(self, "views", int(self.views))
        if self.augment is not None:
            self._check_augment(self.augment)
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, self.channels))
        object.__setattr__(self, "std", _per_channel("std", self.std, self.channels))
        if (self.mean is None) != (self.std is None):
            raise ConfigError("Recipe: give both mean and std, or neither (integers out).")
        if self.mean is None and self.dtype != "float32":
            raise ConfigError(f"Recipe(dtype={self.dtype!r}): without mean and std integers come out; give both.")
        if self.views > 1 and self.memory_format != "contiguous":
            raise ConfigError(
                "Recipe(memory_format='channels_last'): a batch of several views has 5 axes; leave it out."
            )
        if isinstance(self.mean, tuple) and max(self.mean) > 1:
            raise ConfigError(f"Recipe(mean={self.mean}): give means in units of full scale, at most 1 (123.7 / 255).")
        if isinstance(self.std, tuple) and max(self.std) > LARGEST_STD:
            meant = ", ".join(f"{value / 255:.3f}" for value in self.std)
            raise ConfigError(
                f"Recipe(std={self.std}): give deviations in units of full scale; of 255 they are {meant}."
            )
        if isinstance(self.std, tuple) and min(self.std) <= 0:
            raise ConfigError(f"Recipe(std={self.std}): every std must be greater than 0.")

    def _check_augment(self, augment: Augment) -> None:
        if not isinstance(augment, Augment):
            raise ConfigError(f"Recipe(augment={augment!r}): give an Augment or None.")
        if augment.mixes and self.channels == 1:
            raise ConfigError("Recipe(channels=1): gray has no saturation and no hue to vary; leave them at 0.")
        size = (self.height, self.width)
        needed = (max(size),) * 2 if augment.quarter_turns else size  # a turned window's sides change places
        if augment.crop and (self.base[0] < needed[0] or self.base[1] < needed[1]):
            raise ConfigError(
                f"Recipe(size={self.size}, base_size={self.base_size}): Augment(crop=True) cuts the output from the "
                "base image; give a base_size at least as large."
            )
        if augment.window_jitter and (self.depth != 16 or self.window is None):
            raise ConfigError("Augment(window_jitter=...): only a recipe of depth=16 with a window has one to move.")
        if self.native and (augment.warps or augment.recolours):
            if self.integer_dtype is torch.uint16:
                raise ConfigError("Recipe(parity='fast'): DALI neither turns nor recolours 16-bit values; use 'exact'.")
            if self.emulate == "dali-gpu":
                raise ConfigError(
                    "Recipe(emulate='dali-gpu'): of DALI's GPU operators only flips, resizing and "
                    "normalisation have a twin; leave rotation, scale, shift and colour at their defaults."
                )

    @property
    def height(self) -> int:
        """Rows of the output image."""
        return _size(self.size)[0]

    @property
    def width(self) -> int:
        """Columns of the output image."""
        return _size(self.size)[1]

    @property
    def base(self) -> tuple[int, int]:
        """(height, width) of the base image."""
        return _size(self.size if self.base_size is None else self.base_size)

    @property
    def planned(self) -> bool:
        """Whether the portable arithmetic brings base images to outputs, by a plan (`plans`).

        This is so if the base has a size of its own, and for what no operator of DALI's does.
        """
        return self.base_size is not None or (self.augment is not None and self.augment.plans)

    @property
    def native(self) -> bool:
        """Whether DALI's own operators, or their twins, do what varies."""
        return self.parity == "fast" and not self.planned

    @property
    def jitters(self) -> bool:
        """Whether draws move the window, so that it is applied to each output by itself."""
        return self.augment is not None and self.augment.window_jitter > 0

    @property
    def needs_source(self) -> bool:
        """Whether the output depends on the size of the source, besides its base image."""
        return self.augment is not None and self.augment.resized_crop is not None

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std), one of each per channel, or None where integers come out."""
        if not isinstance(self.mean, tuple) or not isinstance(self.std, tuple):
            return None
        return self.mean, self.std

    @property
    def integer_dtype(self) -> torch.dtype:
        """torch.uint8, or torch.uint16 where 16-bit values reach the output (depth 16 without a window)."""
        return torch.uint16 if self.depth == 16 and self.window is None else torch.uint8

    @property
    def full_scale(self) -> int:
        """The integer that `mean` and `std` call 1.0: 255 or 65535."""
        return 65535 if self.integer_dtype is torch.uint16 else 255

    @property
    def dali_base_image(self) -> bool:
        """Whether DALI's own operators, or their twins, make the base image of a plain JPEG that no cache holds.

        Not at depth 16, where a JPEG's values are spread over 16 bits; and not to gray, for which DALI takes the Y
        plane where the contract computes it from RGB.
        """
        return self.parity == "fast" and self.depth == 8 and self.channels == 3

    @property
    def decode_policy(self) -> DecodePolicy:
        """The part that decoding a file needs."""
        return DecodePolicy(
            channels=self.channels,
            depth=self.depth,
            window=self.window if self.depth == 8 else None,
            reduce=self.base if self.reduce else None,
        )

    @property
    def digest(self) -> str:
        """32 hex digits that change if and only if output pixels can change."""
        plain = self.to_dict()
        plain.pop("memory_format", None)
        if self.augment == NOTHING:  # nothing ever varies
            del plain["augment"]
        return _digest(plain)

    @property
    def base_parts(self) -> dict[str, str]:
        """What decides a cached base image, field by field, as canonical text."""
        plain = self.to_dict()
        if self.depth == 16:
            plain["window"] = "when read"
        plain["size"] = list(self.base)
        return {name: _canonical(plain[name]) for name in BASE_FIELDS}

    @property
    def base_digest(self) -> str:
        """32 hex digits that change if and only if cached base images can change."""
        return _digest(self.base_parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in TOML and JSON.

        `window` and `augment` are tables; no window is "none"; other fields that are None are absent.
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        plain["size"] = list(plain["size"])
        for name in ("mean", "std", "base_size"):
            if name in plain:
                plain[name] = list(plain[name])
        for name, usual in (("views", 1), ("dtype", "float32"), ("memory_format", "contiguous")):
            if plain[name] == usual:
                del plain[name]
        plain["window"] = "none" if self.window is None else self.window.as_dict()
        if self.parity == "exact":
            del plain["emulate"]
        if self.augment is not None:
            plain["augment"] = self.augment.as_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Recipe:
        """Invert `to_dict`; fields that are absent take their defaults.

        Raises:
            ConfigError: an unknown field, or a value that is not allowed.
        """
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
        try:
            if "window" in values:
                values["window"] = None if values["window"] == "none" else window_from_dict(_table(values["window"]))
            if "augment" in values:
                values["augment"] = _augment(_table(values["augment"]))
            return cls(**values)
        except TypeError as error:
            names = ", ".join(f.name for f in fields(cls))
            raise ConfigError(f"recipe: {error}; its fields are {names}.") from error

    def to_json(self) -> str:
        """Return the recipe as a JSON document."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Make a recipe from a JSON document; raise ConfigError if it is not one."""
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"recipe: not JSON: {error}") from error
        return cls.from_dict(_table(plain))

    def to_toml(self) -> str:
        """Return the recipe as a TOML document."""
        plain = self.to_dict()
        tables = {name: plain.pop(name) for name in ("window", "augment") if isinstance(plain.get(name), dict)}
        lines = [f"{name} = {_toml(value)}" for name, value in plain.items()]
        for name, table in tables.items():
            lines += [
                "",
                f"[{name}]",
                *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None),
            ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Make a recipe from a TOML document; raise ConfigError if it is not one."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"recipe: not TOML: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a `.toml` or `.json` file; raise ConfigError if it is not one."""
        try:
            text = Path(path).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"recipe: {os.fspath(path)} is not UTF-8 text: {error}") from error
        return cls.from_json(text) if Path(path).suffix == ".json" else cls.from_toml(text)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def _size(size: Any, name: str = "size") -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(_is_whole(n) and 1 <= n <= MAX_SIDE for n in pair):
        raise ConfigError(f"Recipe({name}={size!r}): give (height, width), or one number, from 1 to {MAX_SIDE} pixels.")
    return int(pair[0]), int(pair[1])


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's integers are Integral too


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        given = tuple(values)  # arrays too: means are often computed
    except TypeError:
        given = (values,)
    try:
        many = () if any(isinstance(v, str) for v in given) else tuple(float(v) + 0.0 for v in given)  # no -0.0
    except (TypeError, ValueError, OverflowError):
        many = ()
    many = many * channels if len(many) == 1 else many
    if len(many) != channels or not all(map(math.isfinite, many)):
        allowed = "1 finite number" if channels == 1 else f"1 or {channels} finite numbers"
        raise ConfigError(f"Recipe({name}={values!r}): give {allowed}, in units of full scale.")
    return many


def _augment(plain: dict[str, Any]) -> Augment:
    return Augment(**plain)


def _table(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise ConfigError(f"recipe: expected a table of fields, found {type(plain).__name__}.")
    return plain


def _canonical(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.blake2b(_canonical(plain).encode(), digest_size=16).hexdigest()
