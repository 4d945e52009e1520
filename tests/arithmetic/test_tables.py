"""The weights: PyTorch's for uint8, written out once more as plain loops; exact sums and no overflow for uint16."""

from fractions import Fraction

import numpy as np
import pytest
from arithmetic_pictures import modes
from hypothesis import example, given
from hypothesis import strategies as st

from dali_pipes.arithmetic import table
from dali_pipes.arithmetic.tables import Interpolation, Table
from dali_pipes.errors import ConfigError

axis = st.one_of(st.integers(1, 9), st.integers(1, 400))
INT32 = 2**31 - 1


def dense(weights: Table, n: int) -> np.ndarray:
    """Weights as a matrix [outputs, n]."""
    matrix = np.zeros((len(weights.start), n), np.int64)
    for k in range(weights.taps):
        matrix[np.arange(len(matrix)), weights.start + k] += weights.weights[:, k]
    return matrix


def plain_filter(x: float, interpolation: str) -> float:
    x = abs(x)
    if interpolation == "bilinear":
        return 1.0 - x if x < 1.0 else 0.0
    a = -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0


def plain_torch(n: int, o: int, interpolation: str) -> tuple[np.ndarray, int]:
    """PyTorch's int16 weights by its own loops: the matrix [o, n] and the precision."""
    scale = n / o
    radius = 1.0 if interpolation == "bilinear" else 2.0
    support = radius * scale if scale >= 1.0 else radius
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    real = np.zeros((o, n))
    for i in range(o):
        centre = scale * (i + 0.5)
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n)
        row = [plain_filter((j - centre + 0.5) * inverse, interpolation) for j in range(low, high)]
        total = 0.0
        for value in row:
            total += value
        real[i, low:high] = [value / total for value in row]
    precision = 0
    while precision < 22 and int(0.5 + real.max() * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    scaled = real * (1 << precision)
    return np.where(real < 0, np.trunc(scaled - 0.5), np.trunc(scaled + 0.5)).astype(np.int64), precision


@given(axis, axis, modes)
@example(3328, 512, "bilinear")
@example(2560, 512, "bicubic")
@example(1, 300, "bicubic")
@example(300, 1, "bicubic")
@example(2, 3, "bicubic")
def test_uint8_weights_are_pytorchs(n: int, o: int, interpolation: Interpolation) -> None:
    if n == o:
        return
    matrix, precision = plain_torch(n, o, interpolation)
    weights = table(n, o, interpolation, 8)
    assert weights.precision == precision
    assert np.array_equal(dense(weights, n), matrix)
    assert np.abs(weights.weights).max() < 1 << 15
    assert 255 * int(np.abs(matrix).sum(axis=1).max()) + (1 << precision) <= INT32


@given(axis, axis, modes)
@example(3328, 512, "bilinear")
@example(20000, 3, "bilinear")
@example(20000, 3, "bicubic")
def test_uint16_weights_sum_to_one_and_cannot_overflow(n: int, o: int, interpolation: Interpolation) -> None:
    if n == o:
        return
    weights = table(n, o, interpolation, 16)
    assert weights.precision == (15 if interpolation == "bilinear" else 14)
    assert (weights.weights.sum(axis=1) == 1 << weights.precision).all()
    half = 1 << (weights.precision - 1)
    assert 65535 * int(np.maximum(weights.weights, 0).sum(axis=1).max()) + half <= INT32
    assert 65535 * int(np.minimum(weights.weights, 0).sum(axis=1).min()) >= -INT32
    if interpolation == "bilinear":
        assert weights.weights.min() >= 0
    # Every running sum is that of the real weights, to half a unit: the docstring's bound by total variation rests on
    # it.
    real = table(n, o, interpolation, 8)
    running = np.cumsum(dense(weights, n), axis=1) / (1 << weights.precision)
    drift = np.abs(running - np.cumsum(dense(real, n), axis=1) / (1 << real.precision))
    assert drift.max() <= 0.5 / (1 << weights.precision) + 0.6 * real.taps / (1 << real.precision)


def test_the_worst_bicubic_gain_is_far_from_overflow() -> None:
    """The largest sum of positive weights over many axes, against the 2.0 that int32 allows."""
    worst = max(
        Fraction(int(np.maximum(table.__wrapped__(n, o, "bicubic", 16).weights, 0).sum(axis=1).max()), 1 << 14)
        for n in range(1, 40)
        for o in range(1, 60)
        if n != o
    )
    assert Fraction(11, 10) < worst < Fraction(133, 100)


@given(axis, axis, modes, st.sampled_from([8, 16]), st.data())
def test_a_part_is_a_part_of_the_whole(
    n: int, o: int, interpolation: Interpolation, depth: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, o - 1))
    count = data.draw(st.integers(1, o - first))
    whole, part = table(n, o, interpolation, depth), table(n, o, interpolation, depth, first, count)
    assert part.precision == whole.precision
    assert np.array_equal(dense(part, n), dense(whole, n)[first : first + count])
    low, high = part.covers()
    assert 0 <= low < high <= n


def test_a_part_of_an_absurd_enlargement_is_cheap() -> None:
    part = table(5000, 2_560_000_000, "bicubic", 8, 1_280_000_000, 512)
    assert part.weights.shape == (512, 4)
    assert part.covers() == (2498, 2502)


def test_equal_sizes_give_the_identity() -> None:
    one = table(7, 7, "bicubic", 16)
    assert np.array_equal(dense(one, 7), np.eye(7) * (1 << one.precision))


def test_tables_are_shared_and_cannot_be_changed() -> None:
    one = table(40, 30, "bilinear", 8)
    assert table(40, 30, "bilinear", 8) is one
    with pytest.raises(ValueError, match="read-only"):
        one.weights[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        one.start[0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, "bilinear", 8), "no table from 0 to 3 samples of 8 bits; sizes are at least 1 and depth is 8 or 16"),
        ((3, 3, "bilinear", 12), "of 12 bits"),
        ((3, 3, "nearest", 8), "interpolation is 'nearest'; allowed: bilinear, bicubic"),
        ((3, 5, "bilinear", 8, 4, 2), "outputs 4 to 6 are not a part of 5"),
    ],
)
def test_what_cannot_be_is_named(arguments: tuple[int, int, Interpolation, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table(*arguments)
