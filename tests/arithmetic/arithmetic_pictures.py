"""Pictures and parameters that the tests of the arithmetic draw from."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Pixels = npt.NDArray[Any]

sides = st.one_of(st.integers(1, 8), st.integers(1, 70))
sizes = st.tuples(sides, sides)
fits = st.sampled_from(["stretch", "crop", "pad"])
modes = st.sampled_from(["bilinear", "bicubic"])
channel_counts = st.sampled_from([1, 3])
depths = st.sampled_from([8, 16])
seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, h: int, w: int, channels: int = 3, depth: int = 8) -> Pixels:
    """Random pixels [h, w, channels]; every third picture has only black and white, which overshoots most."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if depth == 8 else np.uint16
    top = (1 << depth) - 1
    if seed % 3 == 0:
        return (rng.integers(0, 2, (h, w, channels)) * top).astype(dtype)
    return rng.integers(0, top, (h, w, channels), dtype, endpoint=True)
