"""Brightness, contrast, saturation and hue: one integer matrix with an offset.

With brightness `b`, contrast `c`, saturation `s`, hue `h`, and `k` half of the range (128, 32768), a pixel x becomes

    b (c (G + s H(h) (x - G) - k) + k)        G = 0.299 R + 0.587 G + 0.114 B, in every channel

where H turns the plane of the colour differences I and Q (of NTSC's YIQ, to three digits, each with sum 0). DALI's
`color_twist` and `brightness_contrast` mean the same, in float32. The matrix is composed in float64, additions and
multiplications in the order written, which give the same bits on every platform; then rounded once, on the host, to
units of `2**-p`, where p is 11 for bytes and 20 for 16-bit samples. All that follows is integer:

    y_i = clamp((w_i0 x_0 + w_i1 x_1 + w_i2 x_2 + offset_i + 2**(p-1)) >> p,  0, full scale)

Integer addition has no order, so any loop on any device gives these bits. The diagonal takes up what rounding did to
its row, so that every row adds up to the rounded `b c`: gray stays gray. Factors that change nothing give `2**p` times
the identity. With one channel saturation and hue are ignored.

**No overflow.** The sizes of a row's weights add up to at most 3072, and the offset is at most 64 times the full scale
(factors of 10 reach 2604 and 45.2), so sums of bytes stay below `2**11 (3072 + 64) 255 + 2**10 < 2**31`, those of
16-bit samples below `2**48`. What is larger is refused.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.affine import turn
from dali_pipes.compiled.vary import mix_picture, passes
from dali_pipes.errors import ConfigError
from dali_pipes.rec601 import LUMA

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

_HEAVIEST, _FARTHEST = 3072, 64
_BLOCK = 131072
"""Pixels at a time: few enough for a core's caches, many enough that threads seldom wait for the GIL."""
_WORTH_A_TABLE = 1 << 17
"""Samples from which on a table pays."""

_LUMA = np.array(LUMA)
_I = np.array([0.596, -0.274, -0.322])
_Q = np.array([0.211, -0.523, 0.312])
_OF_I = np.array([0.9561706854041451, -0.2726886023301063, -1.1037440821760263])
_OF_Q = np.array([0.6214325663465856, -0.6468132370201738, 1.7006230946773062])
"""Columns of the inverse of the matrix of luma, I and Q; the first column is 1."""


def precision(full_scale: int) -> int:
    """Return the bits of weights and offsets below the point."""
    return 11 if full_scale == 255 else 20


def colour_maps(
    channels: int, full_scale: int, brightness: Doubles, contrast: Doubles, saturation: Doubles, hue: Doubles
) -> Longs:
    """Return fixed-point maps for `recolour`, one a sample.

    channels: 1 or 3. full_scale: 255 or 65535. brightness, contrast, saturation: float64[N], factors; 1.0 changes
    nothing. hue: float64[N], degrees. Returns int64[N, C, C + 1], rows of C weights and an offset, in units of
    `2**-precision(full_scale)`. Raises ConfigError for other channels or scales, numbers that are not finite, and
    factors whose product is out of bounds (10 for each of the three is within them).
    """
    if channels not in (1, 3) or full_scale not in (255, 65535):
        raise ConfigError(f"colours of {channels} channels up to {full_scale}; allowed are 1 or 3, and 255 or 65535")
    given = [np.asarray(values, np.float64) for values in (brightness, contrast, saturation, hue)]
    if not all(np.isfinite(values).all() for values in given):
        raise ConfigError("brightness, contrast, saturation and hue must be finite numbers")
    brightness, contrast, saturation, hue = given
    gain = (brightness * contrast)[:, None, None]
    centre = (full_scale + 1) / 2
    offset = brightness * (centre - contrast * centre)
    weights = gain * _mixing(saturation, hue) if channels == 3 else gain
    heaviest, farthest = np.abs(weights).sum(axis=2).max(initial=0.0), np.abs(offset).max(initial=0.0) / full_scale
    if heaviest > _HEAVIEST - 1 or farthest > _FARTHEST - 1:
        raise ConfigError(
            f"brightness, contrast and saturation multiply a pixel by {heaviest:g} and add {farthest:g} times the full "
            f"scale; allowed are {_HEAVIEST - 1} and {_FARTHEST - 1}: use factors of at most 10"
        )
    unit = float(1 << precision(full_scale))
    maps = np.empty((len(gain), channels, channels + 1), np.int64)
    maps[:, :, :channels] = np.rint(weights * unit)
    maps[:, :, channels] = np.rint(offset * unit)[:, None]
    excess = maps[:, :, :channels].sum(axis=2) - np.rint(gain[:, :, 0] * unit).astype(np.int64)
    for i in range(channels):
        maps[:, i, i] -= excess[:, i]
    return maps


def _mixing(saturation: Doubles, hue: Doubles) -> Doubles:
    """float64[N, 3, 3]: luma, and the colour differences turned and scaled."""
    cosine, sine = (value[:, None] for value in turn(hue))
    turned_i, turned_q = cosine * _I + sine * _Q, cosine * _Q - sine * _I
    colour = _OF_I[:, None] * turned_i[:, None, :] + _OF_Q[:, None] * turned_q[:, None, :]
    mixing: Doubles = _LUMA + saturation[:, None, None] * colour
    return mixing


def _check_map(channels: int, full_scale: int, colours: Longs) -> None:
    """Raise ConfigError unless a map fits the picture and the bounds that exclude overflow."""
    unit = 1 << precision(full_scale)
    fits = colours.dtype == np.int64 and colours.shape == (channels, channels + 1)
    if fits:
        sizes = np.abs(colours.astype(np.float64)) / unit  # int64 has one number without a positive counterpart
        fits = bool((sizes[:, :-1].sum(axis=1) <= _HEAVIEST).all() and (sizes[:, -1] <= _FARTHEST * full_scale).all())
    if not fits:
        raise ConfigError(
            f"a colour map is {colours.dtype} {list(colours.shape)}: {colours.tolist()}; for {channels} channels up to "
            f"{full_scale} it must be a map that colour_maps({channels}, {full_scale}, ...) returns"
        )


def recolour(image: Pixels, colours: Longs) -> Pixels:
    """Apply a colour map.

    image: uint8 or uint16 [C, H, W], any strides, may be read-only. colours: int64[C, C + 1] from `colour_maps` with
    the type's full scale. Returns a new C-contiguous array of the same type and shape. Runs in the calling thread, and
    lets go of the GIL. Raises ConfigError for other types, shapes or maps.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
        raise ConfigError(f"recolour takes uint8 or uint16 [C, H, W], not {image.dtype} {list(image.shape)}")
    _check_map(len(image), int(np.iinfo(image.dtype).max), colours)
    out = np.empty(image.shape, image.dtype)
    compiled = passes()
    if compiled is not None:
        mix_picture(compiled, image, colours, out)
        return out
    alike = np.eye(len(image), dtype=np.int64) * colours[0, 0]
    by_itself = (colours[:, :-1] == alike).all() and (colours[:, -1] == colours[0, -1]).all()
    if by_itself and image.size >= _WORTH_A_TABLE and image.nbytes % 2 == 0:
        through_table(image, colours[:1, [0, -1]], out)
    else:
        mix(image, colours, out)
    return out


def mix(image: Pixels, colours: Longs, out: Pixels) -> None:
    """Apply the formula as it stands, a block of rows at a time. 32 bits are enough for bytes."""
    channels, height, width = image.shape
    full_scale = int(np.iinfo(image.dtype).max)
    bits = precision(full_scale)
    wide = np.int32 if image.dtype == np.uint8 else np.int64
    rows = max(1, _BLOCK // max(1, width))
    pixels = np.empty((channels, min(rows, height), width), wide)
    total, term = np.empty((2, *pixels.shape[1:]), wide)
    for top in range(0, height, rows):
        goal = out[:, top : top + rows]
        count = goal.shape[1]
        x, y, spare = pixels[:, :count], total[:count], term[:count]
        np.copyto(x, image[:, top : top + rows])
        for i, row in enumerate(colours.tolist()):
            np.multiply(x[i], row[i], out=y)
            for j, weight in enumerate(row[:channels]):
                if weight and j != i:
                    np.add(y, np.multiply(x[j], weight, out=spare), out=y)
            np.add(y, row[channels] + (1 << (bits - 1)), out=y)
            np.right_shift(y, bits, out=y)
            np.clip(y, 0, full_scale, out=y)
            np.copyto(goal[i], y, casting="unsafe")


def through_table(image: Pixels, colours: Longs, out: Pixels) -> None:
    """Do the same as `mix` for channels that stay by themselves and share the map int64[1, 2].

    Every value is mixed once, then looked up, bytes two at a time.
    """
    values = np.arange(1 << (8 * image.dtype.itemsize), dtype=image.dtype)[None, None]
    table = np.empty_like(values)
    mix(values, colours, table)
    if image.dtype == np.uint8:
        pairs = np.empty((256, 256, 2), np.uint8)
        pairs[..., 0], pairs[..., 1] = table[0], table[0].T
        table = pairs
    table = table.view("<u2").reshape(-1)
    source, goal = np.ascontiguousarray(image).reshape(-1).view("<u2"), out.reshape(-1).view("<u2")
    index = np.empty(min(_BLOCK, len(source)), np.intp)
    for first in range(0, len(source), _BLOCK):
        part = source[first : first + _BLOCK]
        place = index[: len(part)]
        np.copyto(place, part)
        # Every index is inside; "wrap" spares NumPy a buffered copy, and is its fastest mode.
        np.take(table, place, out=goal[first : first + _BLOCK], mode="wrap")
