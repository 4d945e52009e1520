"""Noise: the specification in Python's unbounded integers; its distribution; and that pixels and origins differ."""

import numpy as np
import pytest
from arithmetic_pictures import channel_counts, depths, noise, seeds, sides
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic import noise as arithmetic
from dali_pipes.arithmetic.noise import add_noise, amplitudes

MASK = 2**64 - 1


def number(origin: int, i: int) -> int:
    z = (origin + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return sum((z ^ (z >> 31)).to_bytes(8, "little")) - 1020


@given(seeds, sides, sides, channel_counts, depths, st.integers(0, MASK), st.floats(0, 1))
def test_noise_is_the_specification(
    seed: int, h: int, w: int, channels: int, depth: int, origin: int, deviation: float
) -> None:
    image = np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))
    top = (1 << depth) - 1
    by = int(amplitudes(np.array([deviation]), top)[0])
    expected = [
        min(max(x + ((by * number(origin, i) + 2**15) >> 16), 0), top) for i, x in enumerate(image.ravel().tolist())
    ]
    out = add_noise(image, origin, by)
    assert out.dtype == image.dtype
    assert out.ravel().tolist() == expected


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((3, 40, 50), 100, np.uint8)
    whole = add_noise(image, 7, 9000)
    monkeypatch.setattr(arithmetic, "_BLOCK", 77)
    assert np.array_equal(add_noise(image, 7, 9000), whole)


def test_it_is_gaussian_of_the_deviation_asked_for() -> None:
    image = np.full((1, 500, 500), 32768, np.uint16)
    by = int(amplitudes(np.array([0.05]), 65535)[0])
    moved = (add_noise(image, 12345, by).astype(np.float64) - 32768) / (0.05 * 65535)
    assert abs(moved.mean()) < 0.01
    assert moved.std() == pytest.approx(1, abs=0.01)
    within = [(np.abs(moved) < k).mean() for k in (1, 2, 3)]
    assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.006)


def test_neighbours_and_other_origins_are_uncorrelated() -> None:
    image = np.full((1, 300, 300), 32768, np.uint16)
    one, other = (add_noise(image, origin, 10**6).astype(np.float64)[0] for origin in (1, 2))
    for a, b in ((one, other), (one[:, 1:], one[:, :-1]), (one[1:], one[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015
