"""Random numbers: pure functions of their arguments, uniform, independent, and the same in every later version."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.draws import Augment, Draws, draw, random_bits, uniform
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
    for name, (low, high) in Augment().ranges.items():
        assert low == high == float(name in ("scale", "brightness", "contrast", "saturation"))
        assert getattr(drawn, name).tolist() == [low] * 5


EVERYTHING = Augment(0.5, 0.5, rotation=30, scale=(0.5, 2), shift=0.25, brightness=0.2, contrast=3, saturation=1, hue=9)


def test_numbers_fill_their_ranges_and_do_not_hang_together() -> None:
    drawn = draw(EVERYTHING, 1, 1, MANY)
    assert set(EVERYTHING.ranges) == {f.name for f in dataclasses.fields(Draws)} - {"hflip", "vflip"}
    for name, (low, high) in EVERYTHING.ranges.items():
        values = getattr(drawn, name)
        assert values.dtype == np.float64
        assert low <= values.min() <= values.max() <= high
        assert np.histogram(values, bins=4, range=(low, high))[0].min() > len(MANY) / 4.5
    numbers = [getattr(drawn, f.name) for f in dataclasses.fields(Draws)]
    correlation = np.corrcoef(np.stack(numbers).astype(np.float64)) - np.eye(len(numbers))
    assert np.abs(correlation).max() < 0.03


def test_the_draws_never_change() -> None:
    """Pinned, as the numbers that they are made of: which number is whose is a promise, too."""
    drawn = draw(EVERYTHING, 7, 3, np.arange(2))
    assert {f.name: getattr(drawn, f.name).tolist() for f in dataclasses.fields(Draws)} == {
        "hflip": [False, True],
        "vflip": [False, False],
        "angle": [-0.4943304414182066, -0.7612149105172712],
        "scale": [1.2309330204366966, 1.562866507305905],
        "shift_y": [-0.16385523795330653, 0.20230354552763274],
        "shift_x": [-0.013380226259364802, -0.05934968549469771],
        "brightness": [0.8813223020172851, 0.9376460192456393],
        "contrast": [0.5498332808618538, 0.29802826188465126],
        "saturation": [1.320995610238178, 1.14234361715528],
        "hue": [4.970879010574931, -6.25110489787766],
    }


def test_ranges() -> None:
    assert EVERYTHING.ranges == {
        "angle": (-30, 30),
        "scale": (0.5, 2),
        "shift_y": (-0.25, 0.25),
        "shift_x": (-0.25, 0.25),
        "brightness": (0.8, 1.2),
        "contrast": (0, 4),  # no factor below 0
        "saturation": (0, 2),
        "hue": (-9, 9),
    }


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip", "shift"])
def test_a_number_outside_0_to_1_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"Augment\({name}=.*from 0 to 1\."):
        Augment(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rotation", 181, "an angle in degrees; give a number from 0 to 180"),
        ("hue", -1, "an angle in degrees; give a number from 0 to 180"),
        ("brightness", 10, "from 0 to 9"),
        ("contrast", -0.5, "from 0 to 9"),
        ("saturation", float("nan"), "from 0 to 9"),
        ("scale", 1.5, r"give \(smallest, largest\)"),
        ("scale", (0.5, 1, 2), r"give \(smallest, largest\)"),
        ("scale", (0, 1), "from 0.1 to 10"),
        ("scale", (1, 11), "from 0.1 to 10"),
        ("scale", (2, 1), "the smaller number first"),
    ],
)
def test_other_ranges(name: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"Augment\({name}=.*{words}"):
        Augment(**{name: value})  # type: ignore[arg-type]


def test_numbers_of_numpy_become_plain_ones() -> None:
    found = Augment(np.float32(0.5), rotation=np.int64(5), scale=(np.float64(0.5), np.int32(2)))  # type: ignore[arg-type]
    assert found == Augment(0.5, rotation=5, scale=(0.5, 2))
    assert {type(value) for value in (found.horizontal_flip, found.rotation, *found.scale)} == {float}


def test_plain_values_hold_what_is_not_at_its_default() -> None:
    assert Augment().as_dict() == {}
    assert Augment(1, scale=[1, 2]).as_dict() == {"horizontal_flip": 1.0, "scale": [1.0, 2.0]}  # type: ignore[arg-type]
    assert Augment(**EVERYTHING.as_dict()) == EVERYTHING
