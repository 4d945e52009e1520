"""Affine maps against their plain readings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic import maps
from dali_pipes.arithmetic.affine import matrices, quantise, shrinking, warp

numbers = st.floats(-3, 3)


def square(form: np.ndarray) -> np.ndarray:
    return np.concatenate([form, np.tile([[[0.0, 0.0, 1.0]]], (len(form), 1, 1))], axis=1)


@given(st.lists(numbers, min_size=12, max_size=12))
def test_after_is_the_matrix_product(values: list[float]) -> None:
    outer, inner = np.array(values).reshape(2, 1, 2, 3)
    assert np.allclose(square(maps.after(outer, inner)), square(outer) @ square(inner))


@given(st.lists(numbers, min_size=6, max_size=6))
def test_inverse(values: list[float]) -> None:
    form = np.array(values).reshape(1, 2, 3)
    form[:, 0, 0] += 8.0
    form[:, 1, 1] += 8.0
    assert np.allclose(square(maps.after(maps.inverse(form), form)), np.eye(3))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_back_is_rot90(turns: int) -> None:
    before = np.arange(15).reshape(3, 5)
    after = np.rot90(before, turns)
    back = maps.turned_back(np.array([turns]), after.shape)[0]
    for (y, x), value in np.ndenumerate(after):
        found_x, found_y = back @ [x + 0.5, y + 0.5, 1.0]
        assert before[int(found_y), int(found_x)] == value
        assert (found_x % 1, found_y % 1) == (0.5, 0.5)


@pytest.mark.parametrize("flips", [(False, True), (True, False), (True, True)])
def test_flipped(flips: tuple[bool, bool]) -> None:
    picture = np.arange(15).reshape(3, 5)
    mirrored = picture[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    back = maps.flipped(*(np.array([each]) for each in flips), picture.shape)[0]
    for (y, x), value in np.ndenumerate(mirrored):
        found_x, found_y = back @ [x + 0.5, y + 0.5, 1.0]
        assert picture[int(found_y), int(found_x)] == value


@given(st.floats(-45, 45), st.floats(-45, 45))
def test_sheared_back(shear_y: float, shear_x: float) -> None:
    """The rows slant first, then the columns, about the centre (5, 3)."""
    back = maps.sheared_back(np.array([shear_y]), np.array([shear_x]), (6, 10))[0]
    x, y = 2.0, 1.0
    y += math.tan(math.radians(shear_y)) * (x - 5.0)
    x += math.tan(math.radians(shear_x)) * (y - 3.0)
    assert np.allclose(back @ [x, y, 1.0], [2.0, 1.0])


def test_shrinking_takes_the_longer_step() -> None:
    one, zero = np.ones(6), np.zeros(6)
    by = np.array([0.5, 1.5, 1.6, 3.0, 6.0, 40.0])
    assert shrinking(maps.scaled(by, one * 0.1, zero, zero)).tolist() == [0, 0, 1, 1, 2, 3]
    assert shrinking(maps.scaled(one * 0.1, by, zero, zero)).tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_a_shrinking_warp_is_the_mean_of_the_finer_one(doublings: int, dtype: type) -> None:
    """The fast form samples the coarse grid again and again; the slow twin makes the fine picture."""
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (3, 40, 50)).astype(dtype)
    still = matrices((9, 7), *(np.array([value]) for value in (20.0, 0.9, 0.1, -0.1)))
    whole = maps.after(maps.scaled(*(np.array([value]) for value in (50 / 7, 40 / 9, 0.0, 0.0))), still)
    by = quantise(whole, (9, 7), np.array([doublings]))[0]
    side = 1 << doublings
    fine = warp(image, by, (9 * side, 7 * side)).astype(np.int64)
    total = fine.reshape(3, 9, side, 7, side).sum(axis=(2, 4))
    expected = (total + side * side // 2) >> (2 * doublings)
    assert np.array_equal(warp(image, by, (9, 7), doublings), expected)


def test_warp_to_another_size_is_a_part_of_the_same() -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    by = quantise(matrices((20, 30), *(np.array([value]) for value in (33.0, 1.2, 0.1, 0.2))))[0]
    assert np.array_equal(warp(image, by, (11, 13)), warp(image, by)[:, :11, :13])
