"""Random (recipe, sample, epoch) triples of every operation: torch, dali-cpu and the kernels agree bit for bit."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import HostCuPy
from plan_cases import pictures, random_recipe

from dali_pipes import backends
from dali_pipes.arithmetic import kernels, kernels_plan
from dali_pipes.draws import draw
from dali_pipes.finish.plans import Plans


def check(host: HostCuPy, seed: int, count: int) -> int:
    """Tell how many triples were compared."""
    rng = np.random.default_rng(seed)
    recipe = random_recipe(rng)
    images = pictures(recipe, rng, count)
    run_seed, epoch = (int(value) for value in rng.integers(0, 1000, 2))
    drawn = draw(recipe.augment, run_seed, epoch, rng.integers(0, 10**6, count))
    drawn = replace(drawn, source=rng.integers(1, 500, (count, 2)))
    found = []
    for name in ("torch", "dali-cpu"):
        backend = backends.create(name, recipe, batch_size=count, threads=2, decode=False)
        try:
            found.append(backend.run(images, drawn).numpy().copy())
        finally:
            backend.close()
    records = Plans(recipe, drawn).records
    on_device = [host.asarray(image) for image in images]
    by_kernels = kernels_plan.planned_batch(on_device, records, (recipe.height, recipe.width), recipe.interpolation)
    for other in (found[1], np.asarray(by_kernels)):
        assert other.dtype == found[0].dtype
        assert np.array_equal(other, found[0]), recipe
    return count


@pytest.fixture
def host(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> HostCuPy:
    stand_in = HostCuPy(compiled)
    monkeypatch.setattr(kernels, "_cupy", lambda: stand_in)
    monkeypatch.setattr(kernels, "_module", lambda device: stand_in)
    return stand_in


def test_some_triples(host: HostCuPy) -> None:
    assert sum(check(host, seed, 8) for seed in range(12)) == 96


@pytest.mark.slow
def test_two_thousand_triples(host: HostCuPy) -> None:
    assert sum(check(host, seed, 16) for seed in range(1000, 1125)) == 2000
