"""The kernels of a plan, compiled by gcc and called by their launcher: the bits of the reference, every operation."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import HostCuPy, same_bits
from plan_cases import pictures, random_plans, random_recipe

from dali_pipes import Recipe
from dali_pipes.arithmetic import kernels, kernels_plan
from dali_pipes.arithmetic.packing_plan import CROP_JOB
from dali_pipes.arithmetic.plan import PLAN, as_words, varied
from dali_pipes.errors import ConfigError


@pytest.fixture(scope="module")
def host(compiled: ctypes.CDLL) -> HostCuPy:
    return HostCuPy(compiled)


@pytest.fixture(autouse=True)
def _on_the_host(host: HostCuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_cupy", lambda: host)
    monkeypatch.setattr(kernels, "_module", lambda device: host)


def reference(image: np.ndarray, plan: np.void, recipe: Recipe) -> np.ndarray:
    out, hflip, vflip = varied(image, plan, (recipe.height, recipe.width), recipe.interpolation)
    return np.ascontiguousarray(out[:, :: -1 if vflip else 1, :: -1 if hflip else 1])


def check(host: HostCuPy, seed: int, count: int) -> int:
    """Tell how many pictures were compared."""
    rng = np.random.default_rng(seed)
    recipe = random_recipe(rng)
    plans, images = random_plans(recipe, rng, count), pictures(recipe, rng, count)
    found = kernels_plan.planned_batch(
        [host.asarray(image) for image in images], plans, (recipe.height, recipe.width), recipe.interpolation
    )
    for result, image, plan in zip(found, images, plans):
        assert same_bits(np.asarray(result), reference(image, plan, recipe)), plan
    return count


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_kernels_give_the_references_bits(host: HostCuPy, seed: int) -> None:
    check(host, seed, 3)


@pytest.mark.slow
def test_two_thousand_draws(host: HostCuPy) -> None:
    assert sum(check(host, seed, 4) for seed in range(500)) == 2000


def test_records_are_the_kernels_structures(compiled: ctypes.CDLL) -> None:
    assert compiled.size_of_plan() == PLAN.itemsize
    assert compiled.size_of_crop_job() == CROP_JOB.itemsize


def test_only_steps_that_are_needed_are_launched(host: HostCuPy) -> None:
    recipe = Recipe((9, 8), base_size=20)
    rng = np.random.default_rng(0)
    images = [host.asarray(image) for image in pictures(recipe, rng, 2)]
    host.launches.clear()
    kernels_plan.planned_batch(images, random_plans(recipe, rng, 2), (9, 8))
    assert [name for name, _ in host.launches] == ["crop_across_u8", "crop_down_u8", "vary_place_u8"]


def test_words_of_a_graph(host: HostCuPy) -> None:
    rng = np.random.default_rng(8)
    recipe = random_recipe(rng)
    plans, images = random_plans(recipe, rng, 3), pictures(recipe, rng, 3)
    on_device = [host.asarray(image) for image in images]
    words = [host.asarray(each.copy()) for each in as_words(plans)]
    host.waits.clear()
    found = kernels_plan.planned_images(on_device, words, (recipe.height, recipe.width), recipe.interpolation)
    assert host.waits == [0]
    for result, image, plan in zip(found, images, plans):
        assert same_bits(np.asarray(result), reference(image, plan, recipe))


def test_pictures_that_do_not_fit_are_refused(host: HostCuPy) -> None:
    recipe = Recipe((9, 8), base_size=20)
    rng = np.random.default_rng(0)
    plans = random_plans(recipe, rng, 2)
    images = [host.asarray(image) for image in pictures(recipe, rng, 2)]
    for bad in (images[:1], []):
        with pytest.raises(ConfigError, match=f"{len(bad)} pictures and 2 records; give one of each"):
            kernels_plan.planned_batch(bad, plans, (9, 8))
    with pytest.raises(ConfigError, match="give uint8 or uint16"):
        kernels_plan.planned_batch([host.asarray(np.zeros((4, 20, 20), np.uint8))] * 2, plans, (9, 8))
