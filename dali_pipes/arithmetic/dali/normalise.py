"""DALI CPU `crop_mirror_normalize`, bit for bit.

Per channel, on the host: `m = f32(fma(-shift, std / scale, mean))` and `inv = f32(scale / std)`, both computed in
float64 from the float32 arguments. Per value: `y = f32(f32(f32(x) - m) * inv)`, two roundings; nothing is computed
when every `m` is 0 and every `inv` is 1. Pixels outside of the image take `fill_values` as they are. The channels
that `pad_output` adds are 0, or the fill value when there is one for all channels. float16 output is rounded from `y`
with ties away from zero. The crop's offset is that of `placement.crop_offset`; mirroring comes last.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Float32Array
from dali_pipes.arithmetic.dali.float32 import integer_max, to_half
from dali_pipes.arithmetic.dali.placement import crop_offset
from dali_pipes.arithmetic.dali.sampling import Pair
from dali_pipes.errors import ConfigError

f32 = np.float32
Layout = Literal["CHW", "HWC"]


def crop_mirror_normalize(
    image: Tensor,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1.0,
    shift: float = 0.0,
    mirror: bool = False,
    crop: tuple[int, int] | None = None,
    crop_pos: Pair = (0.5, 0.5),
    out_of_bounds_policy: Literal["error", "pad"] = "error",
    fill_values: Sequence[float] = (0.0,),
    pad_output: bool = False,
    dtype: torch.dtype = torch.float32,
    output_layout: Layout = "CHW",
) -> Tensor:
    """Crop, mirror and normalise as DALI's CPU operator does; arguments and defaults are those of `nvidia.dali.fn`.

    image: uint8, uint16 or float32 [H, W, C]. mean, std: one value, or one a channel, in pixel values (0..255). crop:
    (h, w); crop_pos: (y, x) in [0, 1]. pad_output: zero channels up to the next power of two. dtype: torch.float32 or
    torch.float16.

    Returns [C, h, w] or [h, w, C], contiguous. Raises ConfigError for arguments that DALI would not take.
    """
    check_normalise(image, mean, std, dtype)
    height, width, channels = image.shape
    h, w = crop or (height, width)
    top, left = (0, 0) if crop is None else (crop_offset(crop_pos[0], height, h), crop_offset(crop_pos[1], width, w))
    inside = image[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)]
    fits = inside.shape[:2] == (h, w)
    if not fits and out_of_bounds_policy == "error":
        raise ConfigError(
            f"crop of {h}x{w} at row {top}, column {left} leaves an image of {height}x{width}; "
            "crop less, or use out_of_bounds_policy='pad'"
        )
    result = _normalise(inside.permute(2, 0, 1), *normalisation(mean, std, scale, shift))
    if dtype == torch.float16:
        result = to_half(result)
    planes = 1 << (channels - 1).bit_length() if pad_output else channels
    if not fits or planes != channels:
        canvas = _canvas(fill_values if out_of_bounds_policy == "pad" else (0.0,), (planes, h, w), result)
        y, x = max(-top, 0), max(-left, 0)
        canvas[:channels, y : y + inside.shape[0], x : x + inside.shape[1]] = result
        result = canvas
    if mirror:
        result = result.flip(2)
    return result if output_layout == "CHW" else result.permute(1, 2, 0).contiguous()


def check_normalise(image: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> None:
    """Raise ConfigError unless shapes and types are ones that DALI's crop_mirror_normalize takes."""
    if image.ndim != 3:
        raise ConfigError(f"crop_mirror_normalize found an image of shape {tuple(image.shape)}; it needs [H, W, C]")
    if image.dtype != torch.float32:
        integer_max(image.dtype)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, image.shape[2]):
            raise ConfigError(
                f"{name} has {len(values)} values for {image.shape[2]} channels; give one, or one a channel"
            )
        with np.errstate(over="ignore"):  # infinite then, and refused
            rounded = np.asarray(values, f32)
        if not np.isfinite(rounded).all():
            raise ConfigError(f"{name} is {tuple(values)}; it must be finite, as float32")
        if name == "std" and 0.0 in rounded:
            raise ConfigError(f"std is {tuple(std)}; it must not be 0, as float32")
    if dtype not in (torch.float32, torch.float16):
        raise ConfigError(f"crop_mirror_normalize to {dtype} has no twin; allowed are torch.float32 and torch.float16")


def normalisation(
    mean: Sequence[float], std: Sequence[float], scale: float = 1.0, shift: float = 0.0
) -> tuple[Float32Array, Float32Array]:
    """Return what is subtracted and what is multiplied by, float32, one value a channel."""
    count = max(len(mean), len(std))
    scale, shift = float(f32(scale)), float(f32(shift))
    subtract, multiply = [], []
    for channel in range(count):
        m, s = float(f32(mean[channel % len(mean)])), float(f32(std[channel % len(std)]))
        # A float64 fma: the fractions are exact, float() rounds once.
        subtract.append(f32(float(Fraction(-shift) * Fraction(s / scale) + Fraction(m))))
        multiply.append(f32(scale / s))
    return np.array(subtract, f32), np.array(multiply, f32)


def _normalise(planes: Tensor, subtract: Float32Array, multiply: Float32Array) -> Tensor:
    """float32 [C, h, w], contiguous and freshly allocated, from planes of any pixel type."""
    values = planes.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if not subtract.any() and (multiply == 1).all():
        return values
    m, inv = (torch.from_numpy(v).to(planes.device).view(-1, 1, 1) for v in (subtract, multiply))
    return values.sub_(m).mul_(inv)


def _canvas(fill_values: Sequence[float], shape: tuple[int, int, int], like: Tensor) -> Tensor:
    canvas = torch.zeros(shape, dtype=torch.float32)
    for plane in range(shape[0]):
        if len(fill_values) == 1 or plane < len(fill_values):
            canvas[plane] = float(f32(fill_values[plane % len(fill_values)]))
    return (to_half(canvas) if like.dtype == torch.float16 else canvas).to(like.device)
