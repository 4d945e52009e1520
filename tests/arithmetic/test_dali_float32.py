"""The roundings under the twins, against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic.dali.float32 import fma, round_half_away, saturate, to_half

singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


def rounded_to_single(value: Fraction) -> float:
    """The float32 nearest to an exact value, ties to even."""
    near = np.float32(float(value))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    best = min(around, key=lambda v: (abs(Fraction(float(v)) - value), int(v.view(np.uint32)) & 1))
    return float(best)


@given(moderate, moderate, moderate)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if 0 < abs(exact) < Fraction(2) ** -120:
        return  # subnormal results are not used by any kernel
    assert float(fma(torch.tensor(a), torch.tensor(b), torch.tensor(c))) == rounded_to_single(exact)


def test_fma_where_float64_rounds_onto_a_midpoint() -> None:
    """a b = 2^-24 (1 - j^2 2^-46), which float64 rounds away next to 1 and float32 then to even."""
    j = torch.arange(1, 200, dtype=torch.float64)
    a = (2.0**-12 * (1 + j * 2.0**-23)).float()
    b = (2.0**-12 * (1 - j * 2.0**-23)).float()
    odd = torch.tensor(1 + 2.0**-23)
    exact = [
        rounded_to_single(Fraction(x) * Fraction(y) + Fraction(float(odd))) for x, y in zip(a.tolist(), b.tolist())
    ]
    assert fma(a, b, odd).tolist() == exact
    assert (a.double() * b.double() + odd.double()).float().tolist() != exact


@given(singles)
def test_round_half_away_is_the_c_function(x: float) -> None:
    exact = Fraction(x)
    away = (abs(exact) + Fraction(1, 2)).__floor__() * (1 if x >= 0 else -1)
    assert float(round_half_away(torch.tensor(x))) == float(np.float32(away))


def test_saturate() -> None:
    values = torch.tensor([-3.0, -0.5, 0.49999997, 0.5, 1.5, 2.5, 254.5, 300.0])
    assert saturate(values, torch.uint8).tolist() == [0, 0, 0, 1, 2, 3, 255, 255]
    assert saturate(values, torch.float32) is values


@given(st.integers(0, 0x7BFE), st.booleans())
def test_to_half_sends_ties_away(bits: int, negative: bool) -> None:
    below, above = (np.uint16(bits + step).view(np.float16).astype(np.float32) for step in (0, 1))
    sign = -1 if negative else 1
    middle = (below + above) / np.float32(2) * np.float32(sign)
    found = to_half(torch.tensor([middle, below * sign, above * sign]))
    assert found.tolist() == [sign * above, sign * below, sign * above]
