"""A record is done step by step; shortcuts and the order of flips change no bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import pictures, random_plans, random_recipe, reading

from dali_pipes.arithmetic.plan import PLAN, WORDS, as_plan, as_words, varied


def check(seed: int, count: int) -> int:
    """Tell how many records were compared."""
    rng = np.random.default_rng(seed)
    recipe = random_recipe(rng)
    plans, images = random_plans(recipe, rng, count), pictures(recipe, rng, count)
    for image, plan in zip(images, plans):
        image.setflags(write=False)
        out, hflip, vflip = varied(image, plan, (recipe.height, recipe.width), recipe.interpolation)
        out = out[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
        assert out.dtype == image.dtype
        assert np.array_equal(out, reading(image, plan, recipe)), plan
    return count


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_a_record_is_its_reading(seed: int) -> None:
    check(seed, 3)


@pytest.mark.slow
def test_many_records_are_their_readings() -> None:
    assert sum(check(seed, 20) for seed in range(500)) == 10_000


def test_records_are_words() -> None:
    assert PLAN.itemsize == 8 * WORDS
    rng = np.random.default_rng(0)
    plans = random_plans(random_recipe(rng), rng, 4)
    for plan, words in zip(plans, as_words(plans)):
        assert as_plan(words.copy()) == plan
