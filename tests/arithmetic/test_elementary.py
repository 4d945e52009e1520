"""Exponential and logarithm against those of the math library."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic.elementary import exp, log


@given(st.floats(-700, 700))
def test_exp(x: float) -> None:
    assert exp(np.array([x]))[0] == 0 or abs(exp(np.array([x]))[0] / math.exp(x) - 1) < 4e-16 * max(1, abs(x))


@given(st.floats(1e-300, 1e300))
def test_log(x: float) -> None:
    assert abs(log(np.array([x]))[0] - math.log(x)) <= 4e-16 * max(1, abs(math.log(x)))


def test_ends() -> None:
    assert exp(np.zeros(1))[0] == 1.0
    assert log(np.ones(1))[0] == 0.0
