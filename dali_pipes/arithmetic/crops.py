"""Which part of a base image a resized crop shows: drawn as torchvision's `RandomResizedCrop` draws, in source pixels.

The base image shows a part of its source: `visible` rows and columns of base pixels, at `scale` base pixels per source
pixel down and across (see `geometry`). With the visible part's height H and width W in source pixels, each try with the
part `a` of the area and the ratio `r` (width by height) asks for

    w = sqrt(a H W r)        h = sqrt(a H W / r)

source pixels, hence `rint(h scale_y)` rows and `rint(w scale_x)` columns of the base image. The first try that is at
least a pixel and at most the visible part high and wide is taken; it lies at `floor(u (visible - crop + 1))` from the
top and left, with u drawn in [0, 1). Where none fits: the largest centred part whose ratio is within the range, as
torchvision takes it.

`erased` draws the rectangle of random erasing likewise, as torchvision's `RandomErasing` does: in output pixels, its
ratio between 0.3 and 3.3, smaller than the picture both ways; where no try fits nothing is erased.

Float64 in the order written, square roots and `elementary`: the same bits on every platform.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.elementary import exp, log
from dali_pipes.arithmetic.geometry import Fit, Size, geometry

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shown:
    """What N base images show of their sources, each pair (vertical, horizontal).

    Attributes:
        scale: float64[N, 2], base pixels per source pixel.
        offset: float64[N, 2], where source position 0 lies in the base image, in base pixels.
        first: int64[N, 2], the first row and column that show something.
        visible: int64[N, 2], how many do.
    """

    scale: Doubles
    offset: Doubles
    first: Longs
    visible: Longs


def shown(source: Longs, base: Size, fit: Fit) -> Shown:
    """Return what base images of the size `base` show of sources, int64[N, 2] (height, width) each."""
    places = [geometry(h, w, base, fit) for h, w in source.tolist()]
    resized, first, crop, visible = (
        np.array([getattr(place, name) for place in places], np.int64).reshape(-1, 2)
        for name in ("resized", "pad", "crop", "window")
    )
    return Shown(resized / source, (first - crop).astype(np.float64), first, visible)


def resized_crops(part: Shown, ratio: tuple[float, float], areas: Doubles, ratios: Doubles, at: Doubles) -> Longs:
    """Return boxes int64[N, 4]: top, left, height and width of each crop, in base pixels.

    Args:
        part: what the base images show.
        ratio: the least and the most width by height, in source pixels.
        areas, ratios: float64[N, T]: each try's part of the area; and its place in [0, 1) between the logarithms of
            the ratio's ends.
        at: float64[N, 2] in [0, 1), the crop's place down and across.
    """
    least, most = log(np.array(ratio))
    extent = part.visible / part.scale
    area = (extent[:, 0] * extent[:, 1])[:, None] * areas
    sides = _sides(area, exp(least + (most - least) * ratios)) * part.scale[:, None, :]
    size, none = _first_that_fits(sides, part.visible)
    free = part.visible - size + 1
    start = np.minimum((at * free).astype(np.int64), free - 1)
    if none.any():
        size[none] = _centred(part, extent, ratio)[none]
        start[none] = (part.visible - size)[none] // 2
    return np.concatenate([part.first + start, size], axis=1)


def erased(size: Size, areas: Doubles, ratios: Doubles, at: Doubles) -> Longs:
    """Return boxes int64[N, 4], in pixels of an output of `size`; of height 0 where nothing is erased.

    areas, ratios: float64[N, T], each try's part of the area, and its ratio's place between the logarithms of 0.3 and
    3.3; an area of 0 never fits. at: float64[N, 2] in [0, 1), the place down and across.
    """
    least, most = log(np.array([0.3, 3.3]))
    sides = _sides(float(size[0]) * size[1] * areas, exp(least + (most - least) * ratios))
    whole = np.tile(np.array(size, np.int64), (len(areas), 1))
    box, none = _first_that_fits(sides, whole - 1)
    start = (at * (whole - box + 1)).astype(np.int64)
    return np.where(none[:, None], 0, np.concatenate([start, box], axis=1))


def _sides(area: Doubles, by: Doubles) -> Doubles:
    """Return heights and widths, float64[N, T, 2], of rectangles of areas and ratios float64[N, T]."""
    found: Doubles = np.stack([np.sqrt(area / by), np.sqrt(area * by)], axis=2)
    return found


def _first_that_fits(sides: Doubles, most: Longs) -> tuple[Longs, npt.NDArray[np.bool_]]:
    """Return the first try that is at least a pixel and at most int64[N, 2] pixels large, and whether none is."""
    pixels = np.rint(sides).astype(np.int64)
    fits = ((pixels >= 1) & (pixels <= most[:, None, :])).all(axis=2)
    none: npt.NDArray[np.bool_] = fits.sum(axis=1) == 0
    return pixels[np.arange(len(pixels)), fits.argmax(axis=1)], none


def _centred(part: Shown, extent: Doubles, ratio: tuple[float, float]) -> Longs:
    """Return the largest height and width whose ratio is within the range."""
    by = extent[:, 1] / extent[:, 0]
    sides = extent.copy()
    narrow, wide = by < ratio[0], by > ratio[1]
    sides[narrow, 0] = extent[narrow, 1] / ratio[0]
    sides[wide, 1] = extent[wide, 0] * ratio[1]
    return np.clip(np.rint(sides * part.scale).astype(np.int64), 1, part.visible)
