"""A monochrome image as codes and what each code means: the form in which windows are applied.

Sixteen or fewer stored bits have at most 65536 different values. So rescale, window, padding and polarity are worked
out once per code in float64, and the image itself is only counted (for percentiles) and looked up. The order is the
standard's (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2): code -> modality value -> padding mask -> window -> polarity -> uint8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.histogram import Codes, counts_of, interpolate, percentiles
from dali_pipes.decode.linear_table import show
from dali_pipes.decode.order_statistics import WORTH_IT, order_statistics
from dali_pipes.decode.voi import (
    FixedWindow,
    PercentileWindow,
    VOIWindow,
    Window,
    apply_function,
    check_window,
    stretch,
    to_uint8,
)
from dali_pipes.errors import WindowError

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class VOILUT:
    """One item of a VOI LUT Sequence (PS3.3 C.11.2.1.1).

    Modality values from `first` on take `entries`, whose full scale is `top`.
    """

    first: int
    entries: tuple[int, ...]
    top: int

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """0..255, not rounded; below the first value takes the first entry, above the last the last."""
        index = np.clip(np.floor(x + 0.5) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        scaled: NDArray[np.float64] = np.asarray(self.entries, np.float64)[index] * (255.0 / self.top)
        return scaled


@dataclass(frozen=True)
class Candidates:
    """The windows a file offers: (center, width) pairs with one function, and look-up tables.

    window_problem, lut_problem: what is wrong with either, if anything; it matters only to those who ask for one.
    """

    windows: tuple[tuple[float, float], ...] = ()
    function: str = "linear"
    luts: tuple[VOILUT, ...] = ()
    window_problem: str = ""
    lut_problem: str = ""


@dataclass(frozen=True)
class Affine:
    """values = stored * slope + intercept; stored int64[n] per code."""

    stored: NDArray[np.int64]
    slope: float
    intercept: float


@dataclass(frozen=True)
class Coded:
    """codes uint8|uint16[H, W] (or any shape), all below n.

    Values float64[n] per code; padded bool[n] per code or None; invert: dark means large.

    codes None: values and padded are per pixel, [H, W] (for more than 16 bits). affine: how the values came about, if
    by a slope. limits: the range for window=None, if not all values'.
    """

    codes: Codes | None
    values: NDArray[np.float64]
    padded: NDArray[np.bool_] | None = None
    invert: bool = False
    candidates: Candidates = field(default=Candidates())
    limits: tuple[float, float] | None = None
    affine: Affine | None = None

    @property
    def is_binary(self) -> bool:
        """Whether pixels have one bit: the image is a mask, which no window is for."""
        return self.codes is not None and self.values.size == 2

    def span(self) -> tuple[float, float]:
        """Return the smallest and largest value that the bits allow.

        For wide images they are those that occur outside of padding.
        """
        values = self.values
        if self.codes is None and self.padded is not None and not self.padded.all():
            values = values[~self.padded]
        return self.limits or (float(values.min()), float(values.max()))


def choose(window: Window | None, candidates: Candidates) -> tuple[Window | VOILUT | None, str]:
    """Return the window to apply, and why, in a sentence; raise WindowError if the file lacks the one asked for."""
    if not isinstance(window, VOIWindow):
        return window, "as asked"
    from_lut = window.source == "lut" or (window.source == "auto" and bool(candidates.luts or candidates.lut_problem))
    problem = candidates.lut_problem if from_lut else candidates.window_problem
    if problem:
        raise WindowError(problem)
    if from_lut:
        if window.index >= len(candidates.luts):
            raise WindowError(
                f"VOI LUT {window.index} was asked for; the file has {len(candidates.luts)} in its VOI LUT Sequence "
                "(0028,3010). Use VOIWindow(source='auto'), a PercentileWindow or a FixedWindow"
            )
        return candidates.luts[window.index], f"item {window.index} of the VOI LUT Sequence"
    if window.source == "auto" and not candidates.windows:
        return PercentileWindow(), "percentiles: the file gives no window"
    if window.index >= len(candidates.windows):
        raise WindowError(
            f"window {window.index} was asked for; the file has {len(candidates.windows)} in Window Center and Width "
            "(0028,1050; 0028,1051). Use VOIWindow(source='auto'), a PercentileWindow or a FixedWindow"
        )
    center, width = candidates.windows[window.index]
    if window.source == "auto" and width == 0:  # written by devices that had none to write
        return PercentileWindow(), "percentiles: the file's window has a width of 0"
    check_window(center, width, candidates.function, WindowError)
    return FixedWindow(center, width, candidates.function), f"window {window.index} of the file"  # type: ignore[arg-type]


STILL = (0.0, 1.0)
"""A jitter that moves no window: by no part of its width, to its own width."""


def render(image: Coded, window: Window | None, jitter: tuple[float, float] = STILL) -> tuple[Bytes, dict[str, Any]]:
    """uint8[H, W, 1] and the numbers of the window that was applied, as plain values."""
    table, told = window_table(image, window, jitter)
    return (table if image.codes is None else show(table, image.codes))[..., None], told


def window_table(
    image: Coded, window: Window | None, jitter: tuple[float, float] = STILL
) -> tuple[Bytes, dict[str, Any]]:
    """uint8 of the shape of `image.values`: one entry per code, and the numbers that made it.

    jitter: (part of the window's width by which its centre moves, factor of its width); of a look-up table, of the
    values that it covers.
    """
    chosen, why = (None, "one bit has no window") if image.is_binary else choose(window, image.candidates)
    told: dict[str, Any] = {"window": "range" if chosen is None else getattr(chosen, "kind", "lut"), "why": why}
    if chosen is None:
        low, high = _moved(*image.span(), jitter)
        told.update(low=low, high=high)
        table = stretch(image.values, low, high)
    elif isinstance(chosen, PercentileWindow):
        low, high = _moved(*image_percentiles(image, chosen), jitter)
        told.update(low=low, high=high)
        table = stretch(image.values, low, high, chosen.rounding)
    elif isinstance(chosen, VOILUT):
        told.update(first=chosen.first, entries=len(chosen.entries), top=chosen.top)
        low, high = _moved(chosen.first, chosen.first + len(chosen.entries), jitter)
        values = image.values
        if jitter != STILL:  # where the moved table would look them up
            values = chosen.first + (values - low) * (len(chosen.entries) / (high - low))
        table = to_uint8(chosen.apply(values))
    elif isinstance(chosen, FixedWindow):
        center, width = chosen.center + jitter[0] * chosen.width, chosen.width * jitter[1]
        if chosen.function == "linear" and jitter != STILL:
            width = max(width, 1.0)  # below that the function has no meaning
        told.update(center=center, width=width, function=chosen.function)
        table = to_uint8(apply_function(image.values, center, width, chosen.function))
    if image.invert:
        table = 255 - table
    if image.padded is not None:
        table[image.padded] = 0  # background is black, whatever the polarity
    return table, told


def _moved(low: float, high: float, jitter: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of a range after its jitter."""
    if jitter == STILL:
        return low, high
    width = high - low
    center = (low + high) / 2 + jitter[0] * width
    return center - jitter[1] * width / 2, center + jitter[1] * width / 2


def image_percentiles(image: Coded, window: PercentileWindow) -> tuple[float, float]:
    """Return the two percentiles of the image's values, without padding."""
    found = _searched(image, (window.low, window.high))
    if found is not None:
        return found
    counts = np.ones(image.values.size, np.int64) if image.codes is None else counts_of(image.codes, image.values.size)
    if image.padded is not None:
        counts[image.padded.reshape(-1)] = 0
    low, high = percentiles(image.values.reshape(-1), counts, (window.low, window.high))
    return low, high


def _searched(image: Coded, wanted: tuple[float, float]) -> tuple[float, float] | None:
    """Return the same percentiles by searching for the four codes that they lie between; None if that would not pay.

    This needs values that rise with the codes, so that the order of codes is the order of values, and padding only
    below or above all others.
    """
    codes = image.codes
    if codes is None or codes.size < WORTH_IT or codes.ndim != 2:
        return None
    rising, inside = image.values, None
    if image.padded is not None:
        measured = np.flatnonzero(~image.padded)
        if not measured.size or measured[-1] - measured[0] >= measured.size:
            return None
        inside = int(measured[0]), int(measured[-1])
        rising = image.values[measured]
    if (np.diff(rising) <= 0).any():
        return None
    found = order_statistics(codes, wanted, image.values.size, inside)
    if found is None:
        return None
    count, code_of = found
    low, high = (interpolate(lambda rank: float(image.values[code_of[rank]]), count, q) for q in wanted)
    return low, high
