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

**Shrinking.** A result that stands for many pixels is the mean of `4**k` such results, taken at the centres of the
`2**k x 2**k` parts of its pixel: the map is that of the grid which is `2**k` times as fine, at the positions
`2**k x + i, 2**k y + j` with i and j below `2**k`, and

    result = (sum of the results there + 2**(2k - 1)) >> 2k

k is the least number for which a step in x, and one in y, is at most `1.5 * 2**k` input pixels long, 3 at most.

**No overflow.** Entries of the 2x2 part are at most 32 in size (pictures shrink at most 32 times), offsets at most
`2**21`, sides at most `2**14`: `|X| <= 2**40 (2**5 2**14 + 2**5 2**14 + 2**21) = 2**62`. Maps to an output of another
size may be steeper: for them that sum itself, of the sizes of the terms at the output's far corner, is held to
`2**62`. Sums of weighted bytes stay
below `2**24`, those of 16-bit samples below `2**48`. What is larger is refused.

The map itself is float64: additions, multiplications and divisions in the order written, and `turn`. These give the
same bits on every platform, which sines of libraries don't.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.compiled.vary import MOST_PLANES, passes, warp_picture
from dali_pipes.errors import ConfigError

Pixels = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

FRACTION = 40
"""Bits of a position below the pixel."""
LONGEST_SIDE = 1 << 14
_STEEPEST, _FARTHEST = 1 << 5, 1 << 21
_BLOCK = 32768
"""Output pixels at a time: few enough for a core's caches, many enough that threads seldom wait for the GIL."""
_LANES = 4
"""Lanes of 16 bits in a word."""

_SINE = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800, -1 / 1307674368000)
_COSINE = (
    *(1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600, -1 / 87178291200, 1 / 20922789888000),
)


def turn(degrees: Doubles) -> tuple[Doubles, Doubles]:
    """Return cosine and sine of angles in degrees, float64.

    They are exact at quarter turns and within 2e-16 elsewhere, with the same bits on every platform. They are Taylor
    series of what remains of the angle beside whole quarter turns.
    """
    quarters = np.rint(degrees / 90.0)
    x = (degrees - quarters * 90.0) * (np.pi / 180.0)
    square = x * x
    cosine, sine = _polynomial(square, _COSINE), x * _polynomial(square, _SINE)
    which = np.mod(quarters, 4.0).astype(np.int64)
    return (
        np.choose(which, [cosine, -sine, -cosine, sine]),
        np.choose(which, [sine, cosine, -sine, -cosine]),
    )


def _polynomial(x: Doubles, coefficients: tuple[float, ...]) -> Doubles:
    total = np.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def matrices(size: tuple[int, int], angle: Doubles, scale: Doubles, shift_y: Doubles, shift_x: Doubles) -> Doubles:
    """Return maps from output to input positions: the picture turned and scaled about its centre, then moved.

    size: (height, width) of input and output. angle: float64[N], degrees counter-clockwise. scale: float64[N], above
    0; at 2.0 things look twice as large. shift_y, shift_x: float64[N], in parts of the height and width; positive
    moves the picture down and right. Returns float64[N, 2, 3] for positions (x, y) with pixel centres at halves: what
    DALI's `warp_affine(inverse_map=True)` takes as `matrix`. Raises ConfigError for sides that `warp` does not take,
    numbers that are not finite, and scales that are not positive.
    """
    height, width = size
    _check_sides(height, width)
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


def quantise(maps: Doubles, size: tuple[int, int] | None = None, doublings: Longs | None = None) -> Longs:
    """Return coefficients (ax, bx, cx, ay, by, cy) of `warp`, int64[N, 6].

    Args:
        maps: float64[N, 2, 3], as `matrices` gives them.
        size: of the output, where it is another than the input's.
        doublings: k for each map, int64[N], see above.

    Raises:
        ConfigError: the 2x2 part exceeds 32, or the offset 2**21 pixels; with `size`, a position may be nearly 2**22
            pixels away.
    """
    if size is not None:
        reach = np.abs(maps[:, :, 0]) * size[1] + np.abs(maps[:, :, 1]) * size[0] + np.abs(maps[:, :, 2])
        if not (reach <= 2 * _FARTHEST - 64).all():
            raise ConfigError(f"a map reaches {reach.max():g} pixels; they may be {2 * _FARTHEST - 64}")
    if doublings is not None:
        maps = maps / np.where(np.arange(3) < 2, (1 << doublings)[:, None, None].astype(np.float64), 1.0)
    parts, offsets = maps[:, :, :2], maps[:, :, 2]
    # Pixel centres lie at halves there, at whole numbers here.
    centred = offsets + (0.5 * parts[:, :, 0] + 0.5 * parts[:, :, 1] - 0.5)
    if size is None and not ((np.abs(parts) <= _STEEPEST).all() and (np.abs(centred) <= _FARTHEST).all()):
        raise ConfigError(
            f"a map reaches {np.abs(parts).max():g} in its 2x2 part, {np.abs(centred).max():g} pixels; they may be "
            f"{_STEEPEST} and {_FARTHEST}: use a scale of at least 1/{_STEEPEST}, and a smaller shift"
        )
    whole = np.concatenate([parts, centred[:, :, None]], 2) * float(1 << FRACTION)
    return np.rint(whole).astype(np.int64).reshape(-1, 6)


def shrinking(maps: Doubles) -> Longs:
    """Return k for each map, float64[N, 2, 3] from output to input positions: see above. int64[N], 0 to 3."""
    squares = (maps[:, 0, :2] * maps[:, 0, :2] + maps[:, 1, :2] * maps[:, 1, :2]).max(axis=1, initial=0.0)
    found: Longs = np.searchsorted(np.array([2.25, 9.0, 36.0]), squares, side="left").astype(np.int64)
    return found


def _check_sides(height: int, width: int) -> None:
    if max(height, width) > LONGEST_SIDE or min(height, width) < 1:
        raise ConfigError(f"warp takes pictures with sides of 1 to {LONGEST_SIDE} pixels, not {height} x {width}")


def _check_coefficients(coefficients: Longs, size: tuple[int, int] | None) -> None:
    limits = np.array([_STEEPEST, _STEEPEST, _FARTHEST] * 2, np.int64) << FRACTION
    fits = coefficients.dtype == np.int64 and coefficients.shape == (6,)
    if fits and size is not None:
        rows = [[abs(n) for n in row] for row in coefficients.reshape(2, 3).tolist()]
        fits = all(a * size[1] + b * size[0] + c <= 2 * _FARTHEST << FRACTION for a, b, c in rows)
    elif fits:
        fits = bool((coefficients <= limits).all() and (coefficients >= -limits).all())
    if not fits:
        raise ConfigError(f"coefficients are {coefficients!r}; they must be a row of what quantise returns, int64[6]")


def warp(image: Pixels, coefficients: Longs, size: tuple[int, int] | None = None, doublings: int = 0) -> Pixels:
    """Sample a picture at the positions of a map, bilinearly, 0 outside of it.

    Args:
        image: uint8 or uint16 [C, H, W], sides up to 16384, any strides, may be read-only.
        coefficients: int64[6], a row of `quantise`; with `doublings`, for the finer grid.
        size: (height, width) of the result, up to 16384 each; those of `image` by default.
        doublings: k from 0 to 3: each result is the mean of `4**k` samples, see above.

    Returns:
        A new C-contiguous array [C, *size] of the same type. Runs in the calling thread, and lets go of the GIL; memory
        besides the result: 8 bytes a pixel (and channel of 16-bit samples), and about 1 MiB.

    Raises:
        ConfigError: other types, shapes or coefficients.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
        raise ConfigError(f"warp takes uint8 or uint16 [C, H, W], not {image.dtype} {list(image.shape)}")
    channels, height, width = image.shape
    goal = (height, width) if size is None else size
    _check_sides(height, width)
    _check_sides(*goal)
    fine = size and (size[0] << doublings, size[1] << doublings)
    _check_coefficients(coefficients, fine)
    compiled = passes()
    if compiled is not None and channels <= MOST_PLANES:
        out = np.empty((channels, *goal), image.dtype)
        warp_picture(compiled, image, coefficients, doublings, out)
        return out
    together = 3 if image.dtype == np.uint8 and channels > 1 else 1
    frames = [_framed(image[c : c + together]) for c in range(0, channels, together)]
    out = np.empty((channels, *goal), image.dtype)
    if not doublings:
        _sample(frames, together, (height, width), coefficients, out)
        return out
    side = 1 << doublings
    total = np.full(out.shape, 1 << (2 * doublings - 1), np.uint32)
    for j, i in np.ndindex(side, side):
        ax, bx, cx, ay, by, cy = coefficients.tolist()
        part = [ax * side, bx * side, ax * i + bx * j + cx, ay * side, by * side, ay * i + by * j + cy]
        _sample(frames, together, (height, width), np.array(part, np.int64), out)
        np.add(total, out, out=total)
    np.right_shift(total, 2 * doublings, out=total)
    np.copyto(out, total, casting="unsafe")
    return out


def _sample(frames: list[Longs], together: int, source: tuple[int, int], coefficients: Longs, out: Pixels) -> None:
    """One sample of each result, of the pictures in `frames`, `together` channels each."""
    channels, height, width = out.shape
    bits = 8 * out.dtype.itemsize
    along, down = _positions(coefficients, height, width, bits)
    limits = np.array([source[1] + 1, source[0] + 1], np.uint64)[:, None, None] << np.uint64(FRACTION)
    rows = max(1, _BLOCK // width)
    scratch = np.empty((10, min(rows, height), width), np.int64)
    for top in range(0, height, rows):
        goal = out[:, top : top + rows]
        block = scratch[:, : goal.shape[1]]
        place, weights, index, left = block[:2], block[2:6].reshape(2, 2, -1, width), block[6:8], block[8:]
        np.add(along, down[:, top : top + rows], out=place)
        _split(place, limits, weights, bits)
        _look_up(place, source[1] + 2, index)
        for first, words in zip(range(0, channels, together), frames):
            # Every index is inside; "wrap" spares NumPy a buffered copy, and is its fastest mode.
            np.take(words, index, out=left, mode="wrap")
            right = np.take(words[1:], index, out=place, mode="wrap")
            np.multiply(left, weights[0, 0], out=left)
            np.multiply(right, weights[0, 1], out=right)
            np.add(left, right, out=left)
            if together == 1:
                _store(_down(left, weights[1], 1 << (2 * bits - 1)), bits // 8, goal[first])
            else:
                _store_lanes(left, place, weights[1], goal[first : first + together])


def _framed(image: Pixels) -> Longs:
    """Return the picture as 64-bit words, one a pixel, in a frame of zeros.

    The frame is a row above, two rows below, and a column on either side.

    A word holds one sample, or three bytes in lanes of 16 bits, which hold them after a multiplication by 8 bits.
    """
    channels, height, width = image.shape
    stride = width + 2
    words = np.zeros((height + 3) * stride + 1, "<i8")
    inside = words[:-1].reshape(-1, stride)[1:-2, 1:-1].view("<u2")
    for c in range(channels):
        inside[:, c::_LANES] = image[c]
    return words


def _positions(coefficients: Longs, height: int, width: int, bits: int) -> tuple[Longs, Longs]:
    """Return terms of (X, Y), to be added: int64[2, 1, W] and int64[2, H, 1].

    They count from the frame's corner, and hold the half that rounds the fraction.
    """
    start = (1 << FRACTION) + (1 << (FRACTION - bits - 1))
    terms = coefficients.reshape(2, 3)
    along = terms[:, :1] * np.arange(width) + (terms[:, 2:] + start)
    down = terms[:, 1:2] * np.arange(height)
    return along[:, None, :], down[:, :, None]


def _split(place: Longs, limits: npt.NDArray[np.uint64], weights: Longs, bits: int) -> None:
    """Turn positions into whole pixels, in place, and write the weights (u, q) of either coordinate.

    What lies outside of the frame goes to the frame's end, where all is 0. So do negative positions, because they are
    the largest as unsigned numbers.
    """
    unsigned = place.view(np.uint64)
    np.minimum(unsigned, limits, out=unsigned)
    u, q = weights[:, 0], weights[:, 1]
    np.right_shift(place, FRACTION - bits, out=q)
    np.bitwise_and(q, (1 << bits) - 1, out=q)
    np.subtract(1 << bits, q, out=u)
    np.right_shift(place, FRACTION, out=place)


def _look_up(place: Longs, stride: int, index: Longs) -> None:
    """Write the indices of p00 and p10 in the frame to ``index``."""
    x, y = place
    upper, lower = index
    np.multiply(y, stride, out=upper)
    np.add(upper, x, out=upper)
    np.add(upper, stride, out=lower)


def _down(rows: Longs, weights: Longs, half: int) -> Longs:
    """Return the vertical step, upper u + lower q + half, in the memory of the upper row."""
    np.multiply(rows, weights, out=rows)
    total: Longs = rows[0]
    np.add(total, rows[1], out=total)
    np.add(total, half, out=total)
    return total


def _store(words: Longs, lane: int, goal: Pixels) -> None:
    np.copyto(goal, words.view("<u2")[:, lane::_LANES], casting="unsafe")


def _store_lanes(rows: Longs, spare: Longs, weights: Longs, goal: Pixels) -> None:
    """Take the vertical step of three lanes, which have to be 32 bits wide then, and store them.

    The first and the third lane are computed by themselves, the second as what the sum of all has besides.
    """
    outer = _down(np.bitwise_and(rows, 0x0000FFFF_0000FFFF, out=spare), weights, 0x8000_0000_8000)
    middle = _down(rows, weights, 0x8000_8000_8000)
    np.subtract(middle, outer, out=middle)
    for samples, words, lane in zip(goal, (outer, middle, outer), (1, 2, 3)):
        _store(words, lane, samples)
