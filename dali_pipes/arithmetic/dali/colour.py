"""DALI CPU `brightness_contrast` and `color_twist`, bit for bit.

All arithmetic is float32. Each operation is rounded, and there is no fused multiply-add.

**brightness_contrast**: `y = f32(x * mul) + add`, rounded half away from zero and saturated. With brightness `b`, its
shift `s`, contrast `c` and the contrast's centre `k` (half of the input's range: 128 or 0.5), `mul = b c` and `add =
s * range + b (k - c k)`, where the range is 255 or 1.

**color_twist**: `y_i = ((M_i0 r + M_i1 g) + M_i2 b) + offset`, with `M = brightness I · contrast I · YIQ2RGB · H(hue)
· S(saturation) · RGB2YIQ`, multiplied from left to right, and `offset = (k - k contrast) brightness`. `H`
turns the colour plane by the hue (glibc's cosf and sinf). `YIQ2RGB` is the inverse of `RGB2YIQ`, eliminated in
float32 with partial pivots and fused multiply-adds.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Float32Array
from dali_pipes.arithmetic.dali.float32 import fma, libm, saturate
from dali_pipes.errors import ConfigError

f32 = np.float32
RGB2YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.321), (0.211, -0.523, 0.311))


def brightness_contrast(
    image: Tensor,
    *,
    brightness: float = 1.0,
    brightness_shift: float = 0.0,
    contrast: float = 1.0,
    contrast_center: float | None = None,
) -> Tensor:
    """Change brightness and contrast of uint8 or float32 [H, W, C] as DALI's CPU operator does.

    Arguments and defaults are the operator's own.

    brightness_shift: in units of full scale. contrast_center: in pixel values, half of the range by default.
    """
    full, half = _ranges("brightness_contrast", image)
    b, s, c = f32(brightness), f32(brightness_shift), f32(contrast)
    centre = half if contrast_center is None else f32(contrast_center)
    add = f32(f32(s * full) + f32(b * f32(centre - f32(c * centre))))
    multiply = f32(b * c)
    if image.dtype == torch.uint8:  # 256 results, as DALI's own table
        table = _multiply_add(torch.arange(256, dtype=torch.float32), multiply, add, torch.uint8)
        return table.to(image.device)[image.long()]
    return _multiply_add(image, multiply, add, image.dtype)


def color_twist(
    image: Tensor,
    *,
    hue: float = 0.0,
    saturation: float = 1.0,
    brightness: float = 1.0,
    contrast: float = 1.0,
) -> Tensor:
    """Change hue (degrees), saturation, brightness and contrast as DALI's CPU operator does.

    image: RGB, uint8 or float32 [H, W, 3].
    """
    _, half = _ranges("color_twist", image)
    if image.shape[2] != 3:
        raise ConfigError(f"color_twist found {image.shape[2]} channels; it needs RGB")
    matrix = twist_matrix(hue, saturation, brightness, contrast)
    offset = float(f32(f32(half - f32(half * f32(contrast))) * f32(brightness)))
    red, green, blue = image.to(torch.float32).unbind(2)
    planes = [_mix((red, green, blue), row, offset) for row in matrix.tolist()]
    return torch.stack([saturate(plane, image.dtype) for plane in planes], 2)


def twist_matrix(hue: float, saturation: float, brightness: float, contrast: float) -> Float32Array:
    """Return the float32[3, 3] that color_twist multiplies (r, g, b) by."""
    angle = float(f32(float(f32(hue)) * math.pi / 180.0))
    cosine, sine = f32(libm().cosf(angle)), f32(libm().sinf(angle))
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]], f32)
    saturate_plane = np.diag(np.array([1, saturation, saturation], f32))
    matrix = _scaling(brightness)
    for factor in (
        _scaling(contrast),
        _yiq2rgb(),
        turn,
        saturate_plane,
        np.array(RGB2YIQ, f32),
    ):
        matrix = matrix_product(matrix, factor)
    return matrix


def matrix_product(a: Float32Array, b: Float32Array) -> Float32Array:
    """Return `a @ b` in float32, each entry's terms added from left to right, every operation rounded."""
    total: Float32Array = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


def _mix(channels: tuple[Tensor, Tensor, Tensor], row: list[float], offset: float) -> Tensor:
    total = channels[0] * row[0]
    total.add_(channels[1] * row[1]).add_(channels[2] * row[2])
    return total.add_(offset)


def _multiply_add(x: Tensor, multiply: np.float32, add: np.float32, dtype: torch.dtype) -> Tensor:
    return saturate((x * float(multiply)).add_(float(add)), dtype)


def _ranges(operator: str, image: Tensor) -> tuple[np.float32, np.float32]:
    """Return full and half of the pixel type's range, as these operators define them."""
    if image.ndim != 3 or image.dtype not in (torch.uint8, torch.float32):
        raise ConfigError(
            f"{operator} found {image.dtype} of shape {tuple(image.shape)}; it takes uint8 or float32 [H, W, C]"
        )
    return (f32(255), f32(128)) if image.dtype == torch.uint8 else (f32(1), f32(0.5))


def _scaling(factor: float) -> Float32Array:
    scaled: Float32Array = np.eye(3, dtype=f32) * f32(factor)
    return scaled


@functools.lru_cache(maxsize=1)
def _yiq2rgb() -> Float32Array:
    """Return the inverse of RGB2YIQ by Gauss-Jordan elimination with fused multiply-adds, as DALI's `solve_gauss`."""
    left = np.concatenate([np.array(RGB2YIQ, f32), np.eye(3, dtype=f32)], 1)
    for column in range(3):
        pivot = column + int(np.argmax(np.abs(left[column:, column])))
        left[[column, pivot]] = left[[pivot, column]]
        left[column] = left[column] * f32(f32(1) / left[column, column])
        for row in range(3):
            if row != column:
                factor = torch.tensor(-left[row, column])
                left[row] = fma(factor, torch.from_numpy(left[column]), torch.from_numpy(left[row])).numpy()
    inverse: Float32Array = np.ascontiguousarray(left[:, 3:])
    return inverse
