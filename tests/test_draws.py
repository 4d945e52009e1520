"""Random numbers: pure functions of their arguments, uniform, independent, and the same in every later version."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.draws import Augment, draw, random_bits, uniform
from dali_pipes.errors import ConfigError

MANY = np.arange(20_000, dtype=np.int64)
seeds = st.integers(-(2**70), 2**70)


def test_the_numbers_never_change() -> None:
    """Pinned: a run that is resumed after an upgrade must go on with the same numbers."""
    bits = random_bits(0, 0, "order", np.array([0, 1, 2, 2**40]))
    assert [f"{value:016x}" for value in bits.tolist()] == [
        "88de2407ccdc5365",
        "19193362f073089c",
        "158ca41c099638f5",
        "c3c4e7833daeeed2",
    ]
    assert uniform(7, 3, "hflip", np.arange(3)).tolist() == [
        0.5544097367576858,
        0.4036472947432237,
        0.37009204230661474,
    ]


def test_the_numbers_are_those_of_the_formula() -> None:
    """SplitMix64 in Python's unbounded integers."""
    import hashlib

    mask = 2**64 - 1
    origin = int.from_bytes(hashlib.blake2b(b"5\0006\0name", digest_size=8).digest(), "little")
    for sample in (0, 1, 999, 2**31):
        z = (origin + (sample + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        assert int(random_bits(5, 6, "name", np.array([sample]))[0]) == z ^ (z >> 31)


@given(seeds, st.integers(0, 2**40), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_samples_number_does_not_depend_on_its_batch(seed: int, epoch: int, samples: list[int]) -> None:
    together = random_bits(seed, epoch, "x", np.array(samples))
    alone = [int(random_bits(seed, epoch, "x", np.array([sample]))[0]) for sample in samples]
    assert together.tolist() == alone


@pytest.mark.parametrize(("seed", "epoch", "operation"), [(1, 0, "x"), (0, 1, "x"), (0, 0, "y")])
def test_seed_epoch_and_operation_give_other_streams(seed: int, epoch: int, operation: str) -> None:
    base, other = uniform(0, 0, "x", MANY), uniform(seed, epoch, operation, MANY)
    assert not np.intersect1d(base, other).size  # not shifted copies of each other either
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


def test_arguments_cannot_run_into_each_other() -> None:
    assert random_bits(1, 12, "x", MANY[:4]).tolist() != random_bits(11, 2, "x", MANY[:4]).tolist()


def test_numbers_are_uniform() -> None:
    values = uniform(3, 1, "x", MANY)
    assert 0 <= values.min() <= values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 45  # 19 degrees of freedom; a fair source exceeds it once in 1,400 seeds, and this seed is fixed
    assert len(np.unique(values)) == len(values)


def test_another_process_draws_the_same() -> None:
    code = (
        "import numpy as np; from dali_pipes.draws import random_bits as f; print(f(1, 2, 'x', np.arange(3)).tolist())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(random_bits(1, 2, "x", np.arange(3)).tolist())


def test_flips_come_as_often_as_asked_and_do_not_hang_together() -> None:
    drawn = draw(Augment(horizontal_flip=0.25, vertical_flip=0.5), 1, 1, MANY)
    assert drawn.hflip.mean() == pytest.approx(0.25, abs=0.02)
    assert drawn.vflip.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(drawn.hflip, drawn.vflip)[0, 1]) < 0.03


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_never_and_always(probability: float, expected: bool) -> None:
    drawn = draw(Augment(probability, probability), 1, 1, MANY)
    assert (drawn.hflip == expected).all()
    assert (drawn.vflip == expected).all()


def test_nothing_varies_without_augment() -> None:
    drawn = draw(None, 1, 1, MANY[:5])
    assert drawn.hflip.dtype == np.bool_
    assert drawn.hflip.tolist() == drawn.vflip.tolist() == [False] * 5


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip"])
def test_a_probability_outside_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"Augment\({name}=.*from 0 to 1"):
        Augment(**{name: value})
