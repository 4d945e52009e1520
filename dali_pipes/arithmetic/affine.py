"""Turning, scaling and moving a picture: bilinear sampling with integer positions and integer weights.

A map takes the centre of output pixel (x, y) to a position in the input. `quantise` rounds it once, on the host, to six
whole numbers in units of `2**-40` of a pixel,

    X = ax x + bx y + cx        Y = ay x + by y + cy        0 is the centre of the first input pixel

and all that follows is integer. A fraction of a pixel keeps as many bits W as a sample has (8 or 16), rounded, halves
upwards:

    X' = (X + 2**(39 - W)) >> (40 - W)      x0 = X' >> W      qx = X' & (2**W - 1)      ux = 2**W - qx      (y alike)
    result = (p00 ux uy + p01 qx uy + p10 ux qy + p11 qx qy + 2**(2W - 1)) >> 2W

where p00 is the input pixel (x0, y0), p01 its right neighbour, p10 the one below, and a pixel outside of the image is
0. The weights are not negative and add up to `2**2W`: a result never leaves the range of its neighbours. For bytes it
is at most 1 from the float64 reading of the map, rounded: the rounded position moves a value by
`255 (2**-9 + 2**-9) < 1`.

**No overflow.** Entries of the 2x2 part are at most 32 in size (pictures shrink at most 32 times), offsets at most
`2**21`, sides at most `2**14`: `|X| <= 2**40 (2**5 2**14 + 2**5 2**14 + 2**21) = 2**62`. Sums of weighted bytes stay
below `2**24`, those of 16-bit samples below `2**48`. What is larger is refused.

The map itself is float64: additions, multiplications and divisions in the order written, and `turn`. These give the
same bits on every platform, which sines of libraries don't.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

FRACTION = 40
"""Bits of a position below the pixel."""
LONGEST_SIDE = 1 << 14
_STEEPEST, _FARTHEST = 1 << 5, 1 << 21
_BLOCK = 16384
"""Output pixels at a time."""

_SINE = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800, -1 / 1307674368000)
_COSINE = (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600, -1 / 87178291200)


def turn(degrees: Doubles) -> tuple[Doubles, Doubles]:
    """Cosine and sine of angles in degrees, float64: exact at quarter turns, within 3e-16 elsewhere, the same bits on
    every platform. Taylor series of what remains of the angle beside whole quarter turns."""
    quarters = np.rint(degrees / 90.0)
    x = (degrees - quarters * 90.0) * (np.pi / 180.0)
    square = x * x
    cosine, sine = np.zeros_like(x), np.zeros_like(x)
    for of_cosine, of_sine in zip(_COSINE[::-1], _SINE[::-1]):
        cosine = cosine * square + of_cosine
        sine = sine * square + of_sine
    sine = sine * x
    which = np.mod(quarters, 4.0).astype(np.int64)
    return (
        np.choose(which, [cosine, -sine, -cosine, sine]),
        np.choose(which, [sine, cosine, -sine, -cosine]),
    )


def matrices(size: tuple[int, int], angle: Doubles, scale: Doubles, shift_y: Doubles, shift_x: Doubles) -> Doubles:
    """Maps from output to input positions: the picture turned and scaled about its centre, then moved.

    size: (height, width) of input and output. angle: float64[N], degrees counter-clockwise. scale: float64[N], above
    0; at 2.0 things look twice as large. shift_y, shift_x: float64[N], in parts of the height and width; positive
    moves the picture down and right. Returns float64[N, 2, 3] for positions (x, y) with pixel centres at halves: what
    DALI's `warp_affine(inverse_map=True)` takes as `matrix`. Raises ConfigError for numbers that are not finite, or a
    scale that is not positive.
    """
    height, width = size
    given = [np.asarray(values, np.float64) for values in (angle, scale, shift_y, shift_x)]
    angle, scale, shift_y, shift_x = given
    if not all(np.isfinite(values).all() for values in given) or not (scale > 0).all():
        raise ConfigError("angle, scale and shifts of a map must be finite numbers, and each scale above 0")
    cosine, sine = turn(angle)
    a, b = cosine / scale, sine / scale
    middle_x, middle_y = width / 2, height / 2
    x, y = middle_x + shift_x * width, middle_y + shift_y * height
    maps = np.empty((len(angle), 2, 3))
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 0, 2] = a, -b, middle_x - (a * x - b * y)
    maps[:, 1, 0], maps[:, 1, 1], maps[:, 1, 2] = b, a, middle_y - (b * x + a * y)
    return maps


def quantise(maps: Doubles) -> Longs:
    """Coefficients (ax, bx, cx, ay, by, cy) of `warp`: int64[N, 6], from float64[N, 2, 3] as `matrices` gives them.

    Raises ConfigError if the 2x2 part exceeds 32, or the offset 2**21 pixels.
    """
    parts, offsets = maps[:, :, :2], maps[:, :, 2]
    # Pixel centres lie at halves there, at whole numbers here.
    centred = offsets + (0.5 * parts[:, :, 0] + 0.5 * parts[:, :, 1] - 0.5)
    if not (np.abs(parts) <= _STEEPEST).all() or not (np.abs(centred) <= _FARTHEST).all():
        raise ConfigError(
            f"a map reaches {np.abs(parts).max():g} in its 2x2 part, {np.abs(centred).max():g} pixels; they may be "
            f"{_STEEPEST} and {_FARTHEST}: use a scale of at least 1/{_STEEPEST}, and a smaller shift"
        )
    whole = np.concatenate([parts, centred[:, :, None]], 2) * float(1 << FRACTION)
    return np.rint(whole).astype(np.int64).reshape(-1, 6)


def check_coefficients(height: int, width: int, coefficients: Longs) -> None:
    """Raise ConfigError unless sides and coefficients (int64[6]) are within the bounds that exclude overflow."""
    if max(height, width) > LONGEST_SIDE or min(height, width) < 1:
        raise ConfigError(f"warp takes pictures with sides of 1 to {LONGEST_SIDE} pixels, not {height} x {width}")
    limits = np.array([_STEEPEST, _STEEPEST, _FARTHEST] * 2, np.int64) << FRACTION
    if coefficients.dtype != np.int64 or coefficients.shape != (6,) or (np.abs(coefficients) > limits).any():
        raise ConfigError(f"coefficients are {coefficients!r}; they must be a row of what quantise returns, int64[6]")


def warp(image: Pixels, coefficients: Longs) -> Pixels:
    """Sample a picture at the positions of a map, bilinearly, 0 outside of it.

    image: uint8 or uint16 [C, H, W], sides up to 16384, any strides, may be read-only. coefficients: int64[6], a row of
    `quantise`. Returns a new C-contiguous array of the same type and shape. Runs in the calling thread, and lets go of
    the GIL. Raises ConfigError for other types, shapes or coefficients.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
        raise ConfigError(f"warp takes uint8 or uint16 [C, H, W], not {image.dtype} {list(image.shape)}")
    channels, height, width = image.shape
    check_coefficients(height, width, coefficients)
    out = np.empty(image.shape, image.dtype)
    group = 3 if image.dtype == np.uint8 and channels > 1 else 1
    for first in range(0, channels, group):
        _warp_group(image[first : first + group], coefficients, out[first : first + group])
    return out


def _warp_group(image: Pixels, coefficients: Longs, out: Pixels) -> None:
    """One channel, or up to three of bytes that share 64-bit words: lanes of 16 bits hold a byte times 256, and two
    lanes of 32 bits a byte times 65536, so a multiplication serves several channels."""
    _, height, width = image.shape
    bits = 8 * image.dtype.itemsize
    ax, bx, cx, ay, by, cy = coefficients.tolist()
    half = 1 << (FRACTION - bits - 1)
    words, stride = _framed(image)
    right, below, across = words[1:], words[stride:], words[stride + 1 :]
    columns = np.arange(width, dtype=np.int64)
    along_x, along_y = ax * columns + (cx + half), ay * columns + (cy + half)
    rows = max(1, _BLOCK // width)
    scratch = np.empty((9, min(rows, height), width), np.int64)
    for top in range(0, height, rows):
        goal = out[:, top : top + rows]
        x, y, qx, qy, index, upper, lower, a, b = scratch[:, : goal.shape[1]]
        line = np.arange(top, top + goal.shape[1], dtype=np.int64)[:, None]
        _position(along_x, bx * line, width, bits, x, qx)
        _position(along_y, by * line, height, bits, y, qy)
        np.multiply(y, stride, out=index)
        np.add(index, x, out=index)
        index += 2 * stride + 2
        ux, uy = np.subtract(1 << bits, qx, out=x), np.subtract(1 << bits, qy, out=y)
        # Every index is inside; "wrap" spares NumPy a buffered copy, and is its fastest mode.
        for row, left_word, right_word in ((upper, words, right), (lower, below, across)):
            np.take(left_word, index, out=row, mode="wrap")
            np.take(right_word, index, out=a, mode="wrap")
            _mix(row, a, ux, qx)
        if len(image) == 1:
            _mix(upper, lower, uy, qy)
            np.add(upper, 1 << (2 * bits - 1), out=upper)
            np.copyto(goal[0], np.right_shift(upper, 2 * bits, out=upper), casting="unsafe")
        else:
            _mix_lanes(upper, lower, uy, qy, a, b, goal)


def _framed(image: Pixels) -> tuple[Longs, int]:
    """The picture as words in a frame of zeros two pixels wide, and the length of a row.

    The frame's columns on the right are those on the left of the next row.
    """
    channels, height, width = image.shape
    stride = width + 2
    words = np.zeros((height + 4) * stride + 2, np.int64)
    inside = words[: (height + 4) * stride].reshape(-1, stride)[2:-2, 2:]
    samples = inside.view(image.dtype).reshape(height, width, -1) if channels > 1 else inside[..., None]
    for c in range(channels):
        samples[..., 2 * c if channels > 1 else 0] = image[c]
    return words, stride


def _position(along: Longs, across: Longs, side: int, bits: int, whole: Longs, rest: Longs) -> None:
    """Whole part and rounded fraction of a coordinate; beyond the frame it is the frame's."""
    np.add(along, across, out=whole)
    np.clip(whole, -2 << FRACTION, side << FRACTION, out=whole)
    np.right_shift(whole, FRACTION - bits, out=rest)
    np.bitwise_and(rest, (1 << bits) - 1, out=rest)
    np.right_shift(whole, FRACTION, out=whole)


def _mix(a: Longs, b: Longs, u: Longs, q: Longs) -> None:
    """a = a u + b q; b is lost."""
    np.multiply(a, u, out=a)
    np.multiply(b, q, out=b)
    np.add(a, b, out=a)


_EVEN = 0x0000FFFF_0000FFFF


def _mix_lanes(upper: Longs, lower: Longs, u: Longs, q: Longs, a: Longs, b: Longs, goal: Pixels) -> None:
    """The vertical step of three lanes: the first and the third by themselves, and the second as what the sum of all
    has besides."""
    np.bitwise_and(upper, _EVEN, out=a)
    np.bitwise_and(lower, _EVEN, out=b)
    _mix(a, b, u, q)
    _mix(upper, lower, u, q)
    np.subtract(upper, a, out=upper)
    np.add(a, 0x00008000_00008000, out=a)
    np.add(upper, 0x8000 << 16, out=upper)
    for c, (word, shift) in enumerate(((a, 16), (upper, 32), (a, 48))[: len(goal)]):
        np.copyto(goal[c], np.right_shift(word, shift, out=b), casting="unsafe")
