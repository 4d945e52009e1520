"""Windows: how a wide range of values becomes 0..255.

This page is the specification. All arithmetic is float64, rounded once at the end. x is a modality value (PS3.3
C.11.1), y the output.

linear (PS3.3 C.11.2.1.2.1), width >= 1: low = center - 0.5 - (width - 1) / 2, range = width - 1. Width 1 is a
threshold. linear_exact (C.11.2.1.3.2), width > 0: low = center - width / 2, range = width.
    x <= low: 0;   x > low + range: 255;   else 255 * (x - low) / range
sigmoid (C.11.2.1.3.1), width > 0:
    255 / (1 + exp(-4 (x - center) / width))
Each is rounded as floor(y + 0.5).

percentile: lo and hi are the `low`-th and `high`-th percentile of the image's values by NumPy's linear definition,
padding left out;
    y = floor(255 * (x - lo) / (hi - lo) + 0.5), clipped to 0..255 ("floor" leaves the 0.5 out); all zeros where hi ==
    lo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dali_pipes.errors import ConfigError

Floats = NDArray[np.float64]
Function = Literal["linear", "linear_exact", "sigmoid"]
FUNCTIONS = ("linear", "linear_exact", "sigmoid")


class _Plain:
    kind: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the window as plain values, with its kind; `window_from_dict` reads it back."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


def _as_floats(window: _Plain, *names: str) -> None:
    """Equal windows are written alike: 40 as 40.0, -0.0 as 0.0."""
    for name in names:
        object.__setattr__(window, name, float(getattr(window, name)) + 0.0)


@dataclass(frozen=True)
class PercentileWindow(_Plain):
    """From one percentile of the image's own values to another; 0 <= low < high <= 100."""

    kind: ClassVar[str] = "percentile"
    low: float = 0.5
    high: float = 99.5
    rounding: Literal["nearest", "floor"] = "nearest"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ConfigError(f"PercentileWindow({self.low}, {self.high}): needs 0 <= low < high <= 100")
        if self.rounding not in ("nearest", "floor"):
            raise ConfigError(f"PercentileWindow rounding {self.rounding!r}: allowed are 'nearest' and 'floor'")
        _as_floats(self, "low", "high")


@dataclass(frozen=True)
class FixedWindow(_Plain):
    """The same window for every image, in modality values (Hounsfield units in CT)."""

    kind: ClassVar[str] = "fixed"
    center: float
    width: float
    function: Function = "linear"

    def __post_init__(self) -> None:
        check_window(self.center, self.width, self.function, ConfigError)
        _as_floats(self, "center", "width")


@dataclass(frozen=True)
class VOIWindow(_Plain):
    """The window that the file itself gives: its `index`-th.

    source "window": Window Center and Width; "lut": VOI LUT Sequence; "auto": the sequence where there is one, else the
    window, else (a file without either, one whose window has a width of 0, or an image that is not DICOM) the default
    PercentileWindow.
    """

    kind: ClassVar[str] = "voi"
    index: int = 0
    source: Literal["auto", "window", "lut"] = "auto"

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ConfigError(f"VOIWindow index {self.index}: counts from 0")
        if self.source not in ("auto", "window", "lut"):
            raise ConfigError(f"VOIWindow source {self.source!r}: allowed are 'auto', 'window' and 'lut'")


Window = PercentileWindow | FixedWindow | VOIWindow
WINDOWS: dict[str, type[PercentileWindow] | type[FixedWindow] | type[VOIWindow]] = {
    w.kind: w for w in (PercentileWindow, FixedWindow, VOIWindow)
}


def window_from_dict(plain: dict[str, Any] | None) -> Window | None:
    """Return the window that `as_dict` wrote; raise ConfigError for an unknown kind or field."""
    if plain is None:
        return None
    rest = {k: v for k, v in plain.items() if k != "kind"}
    made = WINDOWS.get(plain.get("kind", ""))
    if made is None or not rest.keys() <= {f.name for f in fields(made)}:
        raise ConfigError(f"not a window: {plain!r}; kinds are {', '.join(WINDOWS)}")
    return made(**rest)


def check_window(center: float, width: float, function: str, error: type[Exception]) -> None:
    """Raise `error` where the standard gives the window no meaning (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    if function not in FUNCTIONS:
        raise error(f"window function {function!r}: allowed are {', '.join(FUNCTIONS)}")
    if not (np.isfinite(center) and np.isfinite(width)):
        raise error(f"window center {center} and width {width}: both must be finite")
    if width < 1 and function == "linear":
        raise error(f"window width {width}: a linear window needs at least 1; use linear_exact for narrower ones")
    if width <= 0:
        raise error(f"window width {width}: must be above 0")


def apply_function(x: Floats, center: float, width: float, function: str, top: float = 255.0) -> Floats:
    """Return y in 0..top, not rounded, for modality values x (any shape), by the formulas above."""
    if function == "sigmoid":
        with np.errstate(over="ignore"):
            return top / (1.0 + np.exp(-4.0 * (x - center) / width))
    if function == "linear":
        low, span = center - 0.5 - (width - 1.0) / 2.0, width - 1.0
    else:
        low, span = center - width / 2.0, width
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = top * (x - low) / span
    return np.where(x <= low, 0.0, np.where(x > low + span, top, y))


def stretch(x: Floats, low: float, high: float, rounding: str = "nearest") -> NDArray[np.uint8]:
    """uint8 of x's shape: low..high onto 0..255 by the percentile formula above."""
    if not high > low:
        return np.zeros(x.shape, np.uint8)
    y = np.floor(255.0 * (x - low) / (high - low) + (0.5 if rounding == "nearest" else 0.0))
    return np.clip(y, 0, 255).astype(np.uint8)


def to_uint8(y: Floats) -> NDArray[np.uint8]:
    """Round half up, clipped to 0..255."""
    return np.clip(np.floor(y + 0.5), 0, 255).astype(np.uint8)
