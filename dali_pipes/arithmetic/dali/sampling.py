"""Where a resize samples its source, per axis, and which axis goes first. Shared by DALI's CPU and GPU backends.

1. The region: the whole image, or `[roi_start, roi_end)` in pixels (fractions of the image if relative), at least
   1e-3 wide. A region that runs backwards flips the axis.
2. The requested size is completed by the mode: `default` keeps the aspect ratio of an axis given as 0, `stretch`
   leaves that axis alone, `not_smaller` and `not_larger` scale both axes by the larger or smaller ratio. Ratios are
   float32, their products float64.
3. The output size is the request rounded half up, at least 1. With `subpixel_scale` the region is widened or narrowed
   about its centre (float64) by rounded/requested, so that the scale stays what was asked for.
4. Output pixel `i` samples at `origin + (i + 0.5) * scale`, `scale = f32((end - start) / out)`.
5. Order of the passes: the cheaper in float32, cost of a pass `mul * (support * volume) + 3 * volume` with mul 1.4
   horizontally and 1 vertically, volume the number of pixels **after** the pass; at equal cost the horizontal pass is
   first.
6. Only the pixels that the second pass's filter can reach are read; its origin is counted from there, in float32.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dali_pipes.arithmetic.dali.filters import MAX_SUPPORT, Filter, Interpolation, make_filter
from dali_pipes.errors import ConfigError

f32 = np.float32
Mode = Literal["default", "stretch", "not_smaller", "not_larger"]
MODES: tuple[Mode, ...] = ("default", "stretch", "not_smaller", "not_larger")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis of a resize.

    origin, scale: source pixels, counted from `start`. size: output pixels. start, stop: the source pixels that are
    read.
    """

    filter: Filter
    origin: np.float32
    scale: np.float32
    size: int
    start: int
    stop: int

    @property
    def extent(self) -> int:
        """Source pixels read."""
        return self.stop - self.start


@dataclass(frozen=True)
class Sampling:
    """A whole resize: both axes, and whether the horizontal pass is first."""

    y: Axis
    x: Axis
    horizontal_first: bool


@dataclass(frozen=True)
class _Region:
    start: np.float32
    end: np.float32
    size: int


@functools.lru_cache(maxsize=256)
def sampling(
    image_size: tuple[int, int],
    size: Pair,
    interp_type: Interpolation,
    antialias: bool,
    mode: Mode,
    roi_start: Pair | None,
    roi_end: Pair | None,
    roi_relative: bool,
    subpixel_scale: bool,
    max_size: Pair | None,
) -> Sampling:
    """Return how DALI resizes an image of `image_size` (H, W); the arguments are those of `dali_cpu.resize`.

    Raises ConfigError for an unknown mode or filter, an empty image, half a region or a region outside of the image.
    """
    _check(image_size, size, mode, roi_start, roi_end)
    regions = _regions(image_size, size, mode, roi_start, roi_end, roi_relative, subpixel_scale, max_size)
    # Linear with antialiasing is a triangle when the image shrinks, and the two are the same when it grows.
    shrinking: Interpolation = "triangular" if interp_type == "linear" and antialias else interp_type
    axes: list[Axis] = []
    for extent, region in zip(image_size, regions):
        if region.start == region.end:  # too thin for float32: DALI then takes the whole axis
            region = _Region(f32(0), f32(extent), region.size)
        covered = f32(abs(f32(region.end - region.start)))
        kind = shrinking if f32(region.size) < covered else interp_type
        axes.append(_axis(region, extent, make_filter(kind, antialias, covered, region.size)))
    y, x = axes
    first = horizontal_first(y, x)
    whole_x, whole_y = replace(x, start=0, stop=image_size[1]), replace(y, start=0, stop=image_size[0])
    if first:
        return Sampling(replace(y, origin=f32(y.origin - f32(y.start))), whole_x, True)
    return Sampling(whole_y, replace(x, origin=f32(x.origin - f32(x.start))), False)


def horizontal_first(y: Axis, x: Axis) -> bool:
    """DALI's choice of the first pass, by cost in float32."""

    def cost(width: int, height: int, multiplier: float, support: int) -> np.float32:
        volume = width * height
        total: np.float32 = f32(f32(f32(multiplier) * f32(support * volume)) + f32(f32(volume) * f32(3)))
        return total

    sx, sy = x.filter.support, y.filter.support
    horizontal = f32(cost(x.size, y.extent, 1.4, sx) + cost(x.size, y.size, 1.0, sy))
    vertical = f32(cost(x.extent, y.size, 1.0, sy) + cost(x.size, y.size, 1.4, sx))
    return not vertical < horizontal


def _check(image_size: tuple[int, int], size: Pair, mode: Mode, roi_start: Pair | None, roi_end: Pair | None) -> None:
    if min(image_size) < 1:
        raise ConfigError(f"resize found an image of {image_size[0]}x{image_size[1]} pixels; it needs at least 1x1")
    if mode not in MODES:
        raise ConfigError(f"resize mode is {mode!r}; allowed are {', '.join(MODES)}")
    if (roi_start is None) != (roi_end is None):
        raise ConfigError("resize was given one end of a region; give both roi_start and roi_end, or neither")
    if not all(math.isfinite(v) for v in size):
        raise ConfigError(f"resize size is {size}; it needs finite numbers, 0 for an axis that the mode decides")


def _axis(region: _Region, extent: int, kernel: Filter) -> Axis:
    scale = f32(f32(region.end - region.start) / f32(region.size))
    support = kernel.support
    if support > MAX_SUPPORT:
        kernel = kernel.widened(f32(MAX_SUPPORT))
    low, high = min(region.start, region.end), max(region.start, region.end)
    start = math.floor(f32(low - kernel.anchor))
    stop = math.ceil(f32(f32(high - kernel.anchor) + f32(support)))
    start, stop = max(0, min(extent, start)), max(0, min(extent, stop))
    if start >= stop:
        raise ConfigError(
            f"resize region [{region.start}, {region.end}) lies outside of an axis of {extent} pixels; "
            "it must overlap the image"
        )
    return Axis(kernel, region.start, scale, region.size, start, stop)


def _regions(
    image_size: tuple[int, int],
    size: Pair,
    mode: Mode,
    roi_start: Pair | None,
    roi_end: Pair | None,
    roi_relative: bool,
    subpixel_scale: bool,
    max_size: Pair | None,
) -> list[_Region]:
    starts, ends, wanted = [], [], []
    for axis, extent in enumerate(image_size):
        start, end = f32(0), f32(extent)
        if roi_start is not None and roi_end is not None:
            start, end = _widen(roi_start[axis], roi_end[axis], extent if roi_relative else 1)
        request = f32(size[axis])
        if f32(end - start) < 0:
            start, end, request = end, start, f32(-request)
        starts.append(start)
        ends.append(end)
        wanted.append(request)
    covered = [f32(end - start) for start, end in zip(starts, ends)]
    wanted = _complete(wanted, covered, mode, max_size)
    return [_snap(start, end, want, subpixel_scale) for start, end, want in zip(starts, ends, wanted)]


def _widen(start: float, end: float, unit: int) -> tuple[np.float32, np.float32]:
    a, b = float(f32(start)) * unit, float(f32(end)) * unit
    least = f32(1e-3)
    if abs(b - a) < float(least):
        half = float(f32(f32(0.5) * least))
        a, b = (a - half, b + half) if a <= b else (a + half, b - half)
    return f32(a), f32(b)


def _snap(start: np.float32, end: np.float32, want: np.float32, subpixel_scale: bool) -> _Region:
    if want < 0:
        start, end = end, start
    request = float(abs(want))
    size = max(1, math.floor(request + 0.5))
    if subpixel_scale and size != request:
        stretch = min(max(size / request, -10.0), 10.0)
        centre = 0.5 * float(start) + 0.5 * float(end)
        start, end = (f32(min(max(centre + (float(v) - centre) * stretch, -1e9), 1e9)) for v in (start, end))
    return _Region(start, end, size)


def _complete(
    wanted: list[np.float32], covered: list[np.float32], mode: Mode, max_size: Pair | None
) -> list[np.float32]:
    """Return the requested size with every axis given; negative where the axis is flipped."""
    given = [bool(want != 0 and size != 0) for want, size in zip(wanted, covered)]
    if not any(given):
        return covered
    ratios = [float(f32(want / size)) if size else 1.0 for want, size in zip(wanted, covered)]
    limits = [float(f32(v)) for v in max_size] if max_size is not None else [0.0, 0.0]
    if mode in ("default", "stretch"):
        result = list(wanted)
        if not all(given):
            missing = given.index(False)
            ratio = abs(ratios[1 - missing]) if mode == "default" else 1.0
            result[missing] = f32(float(covered[missing]) * ratio)
        return [
            f32(math.copysign(limit, want)) if 0 < limit < abs(want) else want for want, limit in zip(result, limits)
        ]
    pick = max if mode == "not_smaller" else min
    scale = pick(abs(ratio) for ratio, known in zip(ratios, given) if known)
    scale = min([scale] + [limit / float(size) for limit, size in zip(limits, covered) if limit > 0])
    return [
        want if known and abs(ratio) == scale else f32(float(size) * math.copysign(scale, ratio))
        for want, size, ratio, known in zip(wanted, covered, ratios, given)
    ]
