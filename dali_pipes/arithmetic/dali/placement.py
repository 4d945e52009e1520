"""DALI CPU `crop`, `flip` and `cast`: moves of pixels and changes of type.

- A crop of `h` from `H` pixels begins at `round(position * (H - h))`, halves away from zero; the position, in [0, 1],
  is float32 and the product float64.
- A flip reverses an axis.
- A cast from float to integer is `std::round` (halves away from zero) and saturates; between integers it saturates;
  to float16 ties go away from zero, unlike PyTorch's.
"""

import math

import numpy as np
import torch
from torch import Tensor

from dali_pipes.arithmetic.dali.float32 import INTEGER_MAX, round_half_away, to_half
from dali_pipes.arithmetic.dali.sampling import Pair
from dali_pipes.errors import ConfigError

f32 = np.float32


def crop_offset(position: float, image: int, window: int) -> int:
    """Return the first pixel of a crop along one axis; negative when the window is larger than the image."""
    offset = float(f32(position)) * (image - window)
    return int(math.copysign(math.floor(abs(offset) + 0.5), offset))


def crop(image: Tensor, size: tuple[int, int], position: Pair = (0.5, 0.5)) -> Tensor:
    """Return the window of `size` (h, w) at a relative `position` (y, x) of [H, W, C], as a view.

    Raises ConfigError when the window does not fit in the image.
    """
    height, width = image.shape[:2]
    if not (0 < size[0] <= height and 0 < size[1] <= width):
        raise ConfigError(
            f"crop of {size[0]}x{size[1]} does not fit in an image of {height}x{width}; crop less or resize first"
        )
    top, left = crop_offset(position[0], height, size[0]), crop_offset(position[1], width, size[1])
    return image[top : top + size[0], left : left + size[1]]


def flip(image: Tensor, *, horizontal: bool = True, vertical: bool = False) -> Tensor:
    """Reverse the columns and/or the rows of [H, W, C]."""
    axes = [axis for axis, wanted in ((0, vertical), (1, horizontal)) if wanted]
    view = image.view(torch.int16) if image.dtype == torch.uint16 else image  # PyTorch flips no uint16
    return view.flip(axes).view(image.dtype)


def cast(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Change the type of uint8, uint16 or float32 values to uint8, uint16, int16, float16 or float32.

    Raises ConfigError for other types.
    """
    if image.dtype != torch.float32 and image.dtype not in INTEGER_MAX:
        raise ConfigError(f"cast found {image.dtype}; allowed are torch.uint8, torch.uint16 and torch.float32")
    if dtype == image.dtype:
        return image
    if dtype == torch.float32:
        return image.to(torch.float32)
    values = image.to(torch.float32)  # exact: no integer here has more than 16 bits
    if dtype == torch.float16:
        return to_half(values)
    limits = {torch.uint8: (0.0, 255.0), torch.uint16: (0.0, 65535.0), torch.int16: (-32768.0, 32767.0)}
    if dtype not in limits:
        allowed = ", ".join(map(str, [*limits, torch.float16, torch.float32]))
        raise ConfigError(f"cast to {dtype} has no twin; allowed are {allowed}")
    if image.dtype == torch.float32:
        values = round_half_away(values)
    return values.clamp(*limits[dtype]).to(dtype)
