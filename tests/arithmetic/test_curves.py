"""Curves against their formulas, and against Pillow's."""

import math

import numpy as np
import pytest
from arithmetic_pictures import channel_counts, depths, noise, seeds, sides
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dali_pipes.arithmetic.curves import autocontrast, curve, exponents, look_up, thresholds

KINDS = {8: np.uint8, 16: np.uint16}


@given(st.floats(0.1, 10), st.integers(0, 256), st.integers(0, 7))
def test_a_curve_is_its_formula(exponent: float, threshold: int, lost: int) -> None:
    for x, y in enumerate(curve(exponent, threshold, lost, np.uint8).tolist()):
        value = math.floor(255 * (x / 255) ** exponent + 0.5)
        value = 255 - value if value >= threshold else value
        assert y == value & ~((1 << lost) - 1)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("exponent", [0.2, 1.0, 2.2])
def test_gamma_keeps_the_ends_and_the_order(exponent: float, depth: int) -> None:
    top = (1 << depth) - 1
    table = curve(exponent, top + 1, 0, KINDS[depth]).astype(np.int64)
    assert (table[0], table[-1]) == (0, top)
    assert (np.diff(table) >= 0).all()
    exact = top * (np.arange(top + 1) / top) ** exponent
    assert np.abs(table - exact).max() <= 0.5 + 1e-9


def test_posterize_and_solarize_are_pillows() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    picture = Image.fromarray(ramp[0])
    for lost in range(8):
        theirs = np.asarray(ImageOps.posterize(picture, 8 - lost))
        assert np.array_equal(look_up(ramp, curve(1.0, 256, lost, np.uint8))[0], theirs)
    for threshold in (0, 1, 100, 255, 256):
        theirs = np.asarray(ImageOps.solarize(picture, threshold))
        assert np.array_equal(look_up(ramp, curve(1.0, threshold, 0, np.uint8))[0], theirs)


def test_sixteen_bits_mean_the_same() -> None:
    deep = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(curve(1.0, 65536, 3, np.uint16), deep & 0xF800)
    assert np.array_equal(curve(1.0, 32768, 0, np.uint16)[[0, 32767, 32768, 65535]], [0, 32767, 32767, 0])


@given(seeds, sides, sides, channel_counts, depths)
def test_autocontrast_is_the_formula(seed: int, h: int, w: int, channels: int, depth: int) -> None:
    image = np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1)) // 3 + 5
    out, top = autocontrast(image), (1 << depth) - 1
    assert out.dtype == image.dtype
    for plane, found in zip(image.tolist(), out.tolist()):
        values = [x for row in plane for x in row]
        low, high = min(values), max(values)
        for x, y in zip(values, [y for row in found for y in row]):
            assert y == (x if low == high else (2 * top * (x - low) + high - low) // (2 * (high - low)))


def test_near_pillows_autocontrast() -> None:
    image = (noise(4, 30, 40) // 2 + 30).astype(np.uint8)
    theirs = np.asarray(ImageOps.autocontrast(Image.fromarray(image))).transpose(2, 0, 1)
    assert np.abs(autocontrast(np.ascontiguousarray(image.transpose(2, 0, 1))).astype(int) - theirs).max() <= 1


def test_numbers_of_the_draws() -> None:
    assert np.allclose(exponents(1.0, np.array([-1.0, 0.0, 0.5, 1.0])), [0.5, 1.0, 2**0.5, 2.0])
    assert exponents(3.0, np.zeros(1))[0] == 1.0
    assert thresholds(np.array([0.0, 0.5, 1.0]), 255).tolist() == [256, 128, 0]
