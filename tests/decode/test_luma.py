"""Gray is Pillow's `convert("L")`, at 8 bits and in its weights; every other place takes them from one."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dali_pipes
from dali_pipes.decode.luma import luma, luma16
from dali_pipes.rec601 import LUMA, LUMA_BITS, LUMA_FIXED

ROOM = Path(dali_pipes.__file__).parent


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
def test_every_pair_of_the_other_channels(channel: int, value: int) -> None:
    a, b = np.mgrid[0:256, 0:256].astype(np.uint8)
    rgb = np.ascontiguousarray(np.insert(np.stack([a, b], -1), channel, value, axis=-1))
    assert np.array_equal(luma(rgb)[..., 0], np.asarray(Image.fromarray(rgb).convert("L")))
    assert np.array_equal(luma16(rgb.astype(np.uint16)), luma(rgb))


def test_the_weights_are_stated_once() -> None:
    assert sum(LUMA_FIXED) == 1 << LUMA_BITS
    assert max(abs(fixed - weight * (1 << LUMA_BITS)) for fixed, weight in zip(LUMA_FIXED, LUMA)) < 1
    stated = re.compile(r"\b(19595|38470|7471|0\.299|0\.587)\b")
    found = {str(path.relative_to(ROOM)) for path in ROOM.rglob("*.py") if stated.search(_code(path))}
    # DALI's own matrix is a fact about DALI, whose other digits differ.
    assert found == {"rec601.py", "arithmetic/dali/colour.py"}
    kernel = (ROOM / "arithmetic" / "portable.cu").read_text()
    assert all(str(weight) in kernel for weight in LUMA_FIXED)


def _code(path: Path) -> str:
    """Without docstrings and comments."""
    return re.sub(r'"""(.|\n)*?"""|#.*', "", path.read_text())
