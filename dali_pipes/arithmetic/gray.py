"""Colour to gray in integers, as Pillow's `convert("L")`: `L = (19595 R + 38470 G + 7471 B + 32768) >> 16`.

The weights are those of ITU-R BT.601 times 2**16.
"""

import torch

from dali_pipes.errors import ConfigError


def gray(x: torch.Tensor, axis: int = -3) -> torch.Tensor:
    """Turn RGB into gray, on the device where it lies.

    x: uint8 with 3 channels on `axis` (-3 for planes, -1 for interleaved). Returns uint8 with that axis 1 long.
    Raises ConfigError otherwise.
    """
    if x.dtype != torch.uint8 or x.dim() < -axis or x.shape[axis] != 3:
        raise ConfigError(f"gray takes uint8 with 3 channels on axis {axis}, not {x.dtype} {list(x.shape)}")
    r, g, b = (x.narrow(axis, c, 1).to(torch.int32) for c in range(3))
    luma: torch.Tensor = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    return luma.to(torch.uint8)
