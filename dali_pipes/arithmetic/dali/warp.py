"""DALI CPU `warp_affine` and `rotate`, bit for bit. All arithmetic is float32, each operation rounded, no fused
multiply-add.

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

from dali_pipes.arithmetic.dali.colour import matrix_product
from dali_pipes.arithmetic.dali.filters import Float32Array
from dali_pipes.arithmetic.dali.float32 import libm, saturate
from dali_pipes.errors import ConfigError

f32 = np.float32
CHECKPOINT = 256
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
    """Affine warp of uint8 or float32 [H, W, C], as DALI's CPU operator.

    matrix: from output to input positions (x, y), pixel centres at halves; from input to output with
    `inverse_map=False`. size: (h, w) of the output, the input's by default. fill_value: for pixels outside of the
    image; None repeats its border.

    Returns [h, w, C]. Raises ConfigError for other types, no pixels, or a matrix that is not finite.
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
    if interp_type == "nn":
        return _pixels(image, np.floor(y), np.floor(x), fill_value)
    return saturate(_bilinear(image, x - f32(0.5), y - f32(0.5), fill_value), image.dtype)


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
    canvas = size or ((height, width) if keep_size else rotated_size(height, width, turned))
    radians = float(f32(turned * RADIANS))
    cosine, sine = f32(libm().cosf(-radians)), f32(libm().sinf(-radians))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], f32)
    there = matrix_product(_shift(width, height), turn)
    mapping = matrix_product(there, _shift(-canvas[1], -canvas[0]))
    rows: list[list[float]] = mapping[:2].tolist()
    matrix: Matrix = ((rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2]))
    return warp_affine(image, matrix, size=canvas, interp_type=interp_type, fill_value=fill_value)


def rotated_size(height: int, width: int, angle: float) -> tuple[int, int]:
    """(h, w) of the bounding box of an image turned by degrees, with the parity that keeps its centre where pixels
    have theirs."""
    radians = float(f32(f32(angle) * RADIANS))
    cosine, sine = abs(libm().cos(radians)), abs(libm().sin(radians))
    w = math.ceil(cosine * width + sine * height - 1e-2)
    h = math.ceil(cosine * height + sine * width - 1e-2)
    parity_w, parity_h = (width % 2, height % 2) if sine <= cosine else (height % 2, width % 2)
    return h + (h % 2 ^ parity_h), w + (w % 2 ^ parity_w)


def inverted(mapping: Float32Array) -> Float32Array:
    """The inverse of a float32[2, 3] affine map.

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


def _bilinear(image: Tensor, x: Float32Array, y: Float32Array, fill_value: float | None) -> Tensor:
    left, top = np.floor(x), np.floor(y)
    qx, qy = (torch.from_numpy(v)[..., None].to(image.device) for v in (x - left, y - top))
    rows = []
    for row in (top, top + f32(1)):
        first = _pixels(image, row, left, fill_value).to(torch.float32)
        second = _pixels(image, row, left + f32(1), fill_value).to(torch.float32)
        rows.append((first * (1.0 - qx)).add_(second * qx))
    upper, lower = rows
    return upper + (lower - upper).mul_(qy)


def _pixels(image: Tensor, rows: Float32Array, columns: Float32Array, fill_value: float | None) -> Tensor:
    """Pixels at whole positions, of the image's type: [h, w, C]."""
    height, width = image.shape[:2]
    y = torch.from_numpy(rows.clip(0, height - 1).astype(np.int64)).to(image.device)
    x = torch.from_numpy(columns.clip(0, width - 1).astype(np.int64)).to(image.device)
    found = image[y, x]
    if fill_value is None:
        return found
    inside = torch.from_numpy((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).to(image.device)
    fill = saturate(torch.tensor(fill_value, dtype=torch.float32), image.dtype).to(image.device)
    return torch.where(inside[..., None], found, fill)


def _shift(x: int, y: int) -> Float32Array:
    return np.array([[1, 0, f32(x) * f32(0.5)], [0, 1, f32(y) * f32(0.5)], [0, 0, 1]], f32)
