"""Blur and sharpness against the plainest form of their specification, and against Pillow's and the true Gaussian."""

import math

import numpy as np
import pytest
from arithmetic_pictures import Pixels, channel_counts, depths, noise, seeds, sides
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dali_pipes.arithmetic.blur import RADIUS, blur, blur_weights, gain, sharpen

deviations = st.floats(0, 5)


def planes(seed: int, h: int, w: int, channels: int, depth: int) -> Pixels:
    return np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))


def one_pass(x: list[int], weights: list[int]) -> list[int]:
    """The specification, value by value."""
    last = len(x) - 1
    return [
        (2**14 + weights[0] * x[i]
         + sum(w * (x[max(i - k, 0)] + x[min(i + k, last)]) for k, w in enumerate(weights) if k)) >> 15
        for i in range(len(x))
    ]  # fmt: skip


@given(seeds, st.integers(1, 12), st.integers(1, 12), depths, deviations)
def test_blur_is_the_specification(seed: int, h: int, w: int, depth: int, deviation: float) -> None:
    image = planes(seed, h, w, 1, depth)
    weights = blur_weights(np.array([deviation]))[0]
    across = [one_pass(row, weights.tolist()) for row in image[0].tolist()]
    down = [one_pass(list(column), weights.tolist()) for column in zip(*across)]
    assert np.array_equal(blur(image, weights)[0], np.array(down).T)


@given(deviations)
def test_weights_are_a_gaussians(deviation: float) -> None:
    weights = blur_weights(np.array([deviation]))[0]
    assert weights[0] + 2 * weights[1:].sum() == 1 << 15
    assert (weights >= 0).all()
    if deviation < 0.1:
        return
    radius = min(math.ceil(3 * deviation), RADIUS)
    g = [math.exp(-k * k / (2 * deviation**2)) if k <= radius else 0.0 for k in range(RADIUS + 1)]
    assert np.abs(weights / (1 << 15) - np.array(g) / (2 * sum(g) - 1)).max() < 1e-3


@given(seeds, sides, sides, channel_counts, depths, deviations)
def test_blur_stays_between_neighbours_and_keeps_flat_areas(
    seed: int, h: int, w: int, channels: int, depth: int, deviation: float
) -> None:
    image, weights = planes(seed, h, w, channels, depth), blur_weights(np.array([deviation]))[0]
    out = blur(image, weights)
    assert out.dtype == image.dtype
    assert image.min() <= out.min() <= out.max() <= image.max()
    flat = np.full_like(image, image.max())
    assert np.array_equal(blur(flat, weights), flat)
    for axis in (1, 2):  # symmetric: flips may come before or after
        assert np.array_equal(blur(np.flip(image, axis), weights), np.flip(out, axis))


@given(seeds, sides, sides, channel_counts, depths, st.floats(0, 10))
def test_sharpen_is_the_specification(seed: int, h: int, w: int, channels: int, depth: int, factor: float) -> None:
    image = planes(seed, h, w, channels, depth)
    by, top = int(gain(np.array([factor]))[0]), (1 << depth) - 1
    expected = image.astype(np.int64)
    for c in range(channels):
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                value = int(image[c, y, x])
                around = 4 * value + int(image[c, y - 1 : y + 2, x - 1 : x + 2].sum(dtype=np.int64))
                expected[c, y, x] = min(max(value + ((by * (13 * value - around) + 2**15) >> 16), 0), top)
    assert np.array_equal(sharpen(image, by), expected)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7, 3.0])
def test_near_pillows_sharpness(factor: float) -> None:
    """Pillow rounds the smoothed picture before it blends."""
    image = planes(4, 40, 50, 3, 8)
    theirs = ImageEnhance.Sharpness(Image.fromarray(image.transpose(1, 2, 0))).enhance(factor)
    ours = sharpen(image, int(gain(np.array([factor]))[0]))
    gap = np.abs(np.asarray(theirs).transpose(2, 0, 1).astype(int) - ours)
    assert gap.max() <= 2 + abs(factor - 1)


def test_nothing_changes_nothing() -> None:
    image = planes(1, 9, 8, 3, 8)
    assert np.array_equal(blur(image, blur_weights(np.zeros(1))[0]), image)
    assert np.array_equal(sharpen(image, int(gain(np.ones(1))[0])), image)
