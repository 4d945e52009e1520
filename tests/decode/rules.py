"""Short ways of the rule tests: decode bytes under a policy, and look at one channel."""

from typing import Any

import numpy as np

from dali_pipes.decode import DecodePolicy, FixedWindow, decode, identify
from dali_pipes.decode.dicom.image import read_frame

WHOLE = FixedWindow(127.5, 255, "linear_exact")  # 0..255 onto itself: y = ((x - 127.5) / 255 + 0.5) * 255 = x


def shown(data: bytes, window: Any = WHOLE, frame: int = 0, **policy: Any) -> np.ndarray:
    """uint8[H, W] of a monochrome file."""
    return decode(data, identify("", data), frame, DecodePolicy(channels=1, window=window, **policy)).pixels[..., 0]


def rgb(data: bytes, frame: int = 0) -> np.ndarray:
    """uint8[H, W, 3]."""
    return decode(data, identify("", data), frame, DecodePolicy()).pixels


def values(data: bytes, frame: int = 0) -> np.ndarray:
    """float64[H, W]: the modality values."""
    coded = read_frame(data, frame, DecodePolicy()).coded
    return coded.values if coded.codes is None else coded.values[coded.codes]


def row(*numbers: int, dtype: Any = np.uint8) -> np.ndarray:
    """One row of pixels."""
    return np.array([numbers], dtype)
