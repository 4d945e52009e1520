"""DALI CPU `warp_affine` and `rotate`, bit for bit.

All arithmetic is float32. Each operation is rounded, and there is no fused multiply-add.

1. The source position of output pixel (x, y) is `M (x + 0.5, y + 0.5, 1)`. DALI evaluates it at the first column of
   every 256, as `(t + a 0.5) + b (y + 0.5)` and then by steps of `256 a`, and adds `a` from column to column between.
2. nn: the pixel at the position's `floor`. linear: with the position less 0.5, `s0 = p00 (1 - qx) + p01 qx`, `s1`
   alike for the row below, `s0 + (s1 - s0) qy`. A pixel outside of the image is `fill_value`, or the nearest inside
   of it when there is none.
3. Rounded half away from zero and saturated.
4. A forward map is inverted first: the 2x2 part by its determinant, then the translation.
5. `rotate` maps the output's centre to the input's: `T(w/2, h/2) R(angle) T(-W/2, -H/2)`, a counter-clockwise turn in
   degrees. The canvas is the turned image's bounding box (float64), each side made even or odd as the side that it
   comes from.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dali_pipes.arithmetic.dali.colour import matrix_product
from dali_pipes.arithmetic.dali.filters import Float32Array
from dali_pipes.arithmetic.dali.float32 import libm, saturate
from dali_pipes.errors import ConfigError

f32 = np.float32
CHECKPOINT = 256
FRAME = 2
"""Rows and columns around a picture that stand for all that lies outside."""
BLOCK = 8192
"""Output pixels at a time: few enough for a core's caches."""
RADIANS = f32(math.pi / 180.0)
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]


def warp_affine(
    image: Tensor,
    matrix: Matrix,
    *,
    size: tuple[int, int] | None = None,
    inverse_map: bool = True,
    interp_type: Literal["nn", "linear"] = "linear",
    fill_value: float | None = None,
) -> Tensor:
    """Warp uint8 or float32 [H, W, C] by an affine map, as DALI's CPU operator.

    matrix: from output to input positions (x, y), pixel centres at halves; from input to output with
    `inverse_map=False`. size: (h, w) of the output, the input's by default. fill_value: for pixels outside of the
    image; None repeats its border.

    Returns [h, w, C], a view of planes. Raises ConfigError for other types, no pixels, or a matrix that is not finite.
    """
    if image.ndim != 3 or image.dtype not in (torch.uint8, torch.float32):
        raise ConfigError(
            f"warp_affine found {image.dtype} of shape {tuple(image.shape)}; it takes uint8 or float32 [H, W, C]"
        )
    if interp_type not in ("nn", "linear"):
        raise ConfigError(f"warp_affine interp_type is {interp_type!r}; allowed are nn and linear")
    with np.errstate(over="ignore"):  # infinite then, and refused
        mapping = np.array(matrix, f32)
    if not image.numel() or not np.isfinite(mapping).all():
        raise ConfigError(
            f"warp_affine found an image of shape {tuple(image.shape)} and the matrix {mapping.tolist()}; it needs at "
            "least one pixel, and finite numbers"
        )
    if not inverse_map:
        mapping = inverted(mapping)
    x, y = positions(mapping, size or (image.shape[0], image.shape[1]))
    frame = _framed(image, fill_value)
    if interp_type == "nn":
        planes = frame.index_select(1, _corners(y, x, image)).to(image.dtype)
    else:
        planes = _bilinear(frame, image, x - f32(0.5), y - f32(0.5))
    return planes.view(-1, *x.shape).permute(1, 2, 0)


def rotate(
    image: Tensor,
    angle: float,
    *,
    size: tuple[int, int] | None = None,
    keep_size: bool = False,
    interp_type: Literal["nn", "linear"] = "linear",
    fill_value: float | None = None,
) -> Tensor:
    """Rotate uint8 or float32 [H, W, C] by degrees counter-clockwise about its centre, as DALI's CPU operator.

    size: (h, w) of the output; by default the bounding box, or the input's size with `keep_size`. fill_value: see
    `warp_affine`.
    """
    if not math.isfinite(angle):
        raise ConfigError(f"rotate found an angle of {angle}; it needs a finite number of degrees")
    height, width = image.shape[:2]
    turned = -f32(angle)
    canvas = size or ((height, width) if keep_size else rotated_size(height, width, float(turned)))
    radians = float(f32(turned * RADIANS))
    cosine, sine = f32(libm().cosf(-radians)), f32(libm().sinf(-radians))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], f32)
    there = matrix_product(_shift(width, height), turn)
    mapping = matrix_product(there, _shift(-canvas[1], -canvas[0]))
    rows: list[list[float]] = mapping[:2].tolist()
    matrix: Matrix = ((rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2]))
    return warp_affine(image, matrix, size=canvas, interp_type=interp_type, fill_value=fill_value)


def rotated_size(height: int, width: int, angle: float) -> tuple[int, int]:
    """Return (h, w) of the bounding box of an image turned by degrees.

    Each side has the parity that keeps the image's centre where pixels have theirs.
    """
    radians = float(f32(f32(angle) * RADIANS))
    cosine, sine = abs(libm().cos(radians)), abs(libm().sin(radians))
    w = math.ceil(cosine * width + sine * height - 1e-2)
    h = math.ceil(cosine * height + sine * width - 1e-2)
    parity_w, parity_h = (width % 2, height % 2) if sine <= cosine else (height % 2, width % 2)
    return h + (h % 2 ^ parity_h), w + (w % 2 ^ parity_w)


def inverted(mapping: Float32Array) -> Float32Array:
    """Return the inverse of a float32[2, 3] affine map.

    Raises ConfigError when it has none.
    """
    (a, b, tx), (c, d, ty) = mapping
    determinant = f32(f32(a * d) - f32(b * c))
    if determinant == 0:
        raise ConfigError(f"warp_affine found a matrix that can not be inverted: {mapping.tolist()}")
    part = np.array([[d, -b], [-c, a]], f32) / determinant
    shift = -(part[:, 0] * tx + part[:, 1] * ty)
    inverse: Float32Array = np.concatenate([part, shift[:, None]], 1)
    return inverse


def positions(mapping: Float32Array, size: tuple[int, int]) -> tuple[Float32Array, Float32Array]:
    """Source (x, y) of every output pixel, float32[h, w] each, as DALI walks along a row."""
    x, y = (_walk(row, size) for row in mapping)
    return x, y


def _walk(row: Float32Array, size: tuple[int, int]) -> Float32Array:
    height, width = size
    a, b, t = row
    middles = np.arange(height, dtype=f32) + f32(0.5)
    start = f32(t + f32(a * f32(0.5))) + b * middles
    result = np.full((height, width), a, f32)
    for left in range(0, width, CHECKPOINT):
        result[:, left] = start
        tile = result[:, left : left + CHECKPOINT]
        np.add.accumulate(tile, axis=1, dtype=f32, out=tile)
        start = start + f32(f32(CHECKPOINT) * a)
    return result


def _framed(image: Tensor, fill_value: float | None) -> Tensor:
    """Return what positions can meet, float32[C, (H + 4) (W + 4)].

    That is the planes with two rows or columns on every side, of the fill value or of the border's pixels.
    """
    planes = image.permute(2, 0, 1).to(torch.float32)
    around = (FRAME,) * 4
    if fill_value is None:
        return functional.pad(planes, around, mode="replicate").flatten(1)
    fill = saturate(torch.tensor(fill_value, dtype=torch.float32), image.dtype)
    return functional.pad(planes, around, value=float(fill)).flatten(1)


def _corners(y: Float32Array, x: Float32Array, image: Tensor) -> Tensor:
    """Return where the pixels at the floors of positions lie in the frame, int64[h * w].

    What is farther away than the frame looks as the frame does. A pixel right of it or below is in the frame, too.
    """
    height, width = image.shape[:2]
    rows, columns = (np.floor(at).clip(-FRAME, side).astype(np.int64) + FRAME for at, side in ((y, height), (x, width)))
    return torch.from_numpy((rows * (width + 2 * FRAME) + columns).ravel()).to(image.device)


def _bilinear(frame: Tensor, image: Tensor, x: Float32Array, y: Float32Array) -> Tensor:
    corners, stride = _corners(y, x, image), image.shape[1] + 2 * FRAME
    fractions = [torch.from_numpy((at - np.floor(at)).ravel()).to(image.device) for at in (x, y)]
    result = torch.empty((len(frame), len(corners)), dtype=image.dtype, device=image.device)
    for corner, qx, qy, goal in zip(*(each.split(BLOCK, -1) for each in (corners, *fractions, result))):
        pixels = [frame.index_select(1, corner + further) for further in (0, 1, stride, stride + 1)]
        goal.copy_(saturate(_blend(pixels, qx, qy), image.dtype))
    return result


def _blend(pixels: list[Tensor], qx: Tensor, qy: Tensor) -> Tensor:
    """Rule 2 of the specification for p00, p01, p10 and p11, float32[C, n] each, in their memory."""
    (p00, p01, p10, p11), ux = pixels, 1.0 - qx
    upper = p00.mul_(ux).add_(p01.mul_(qx))
    lower = p10.mul_(ux).add_(p11.mul_(qx))
    return lower.sub_(upper).mul_(qy).add_(upper)


def _shift(x: int, y: int) -> Float32Array:
    return np.array([[1, 0, f32(x) * f32(0.5)], [0, 1, f32(y) * f32(0.5)], [0, 0, 1]], f32)
