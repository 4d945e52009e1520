"""Crops from a larger base, views and the like through the loader: every backend, cold and warm, resumed anywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, manifest_of, pictures
from make_images import dicom
from PIL import Image

import dali_pipes as dp
from dali_pipes.draws import draw

CROPPED = {"size": 20, "base_size": 36, "augment": dp.Augment(0.5, resized_crop=(0.2, 1))}
NORMALISED = {"mean": 0.5, "std": 0.25}
TURNED = dp.Augment(0.5, 0.5, 40, (0.7, 1.4), 0.1, resized_crop=(0.3, 1), quarter_turns=0.5, shear=30)
FILTERS = dp.Augment(
    **{"horizontal_flip": 0.5, "quarter_turns": 0.5, "gamma": 1, "blur": (0, 2), "noise": 0.1, "erasing": (0.02, 0.3)},
    **{"grayscale": 0.5, "solarize": 0.5, "posterize": 4, "autocontrast": 0.5, "sharpness": 0.9},
    probability={"blur": 0.5, "noise": 0.5, "erasing": 0.5, "gamma": 0.5},
)
VARIED: dict[str, dict[str, Any]] = {
    "base": {"size": (20, 24), "base_size": (36, 30)},
    "resized-crop": {**CROPPED, **NORMALISED},
    "no-base": {"size": 20, "augment": dp.Augment(resized_crop=(0.2, 1))},
    "crop": {"size": (20, 24), "base_size": 36, "augment": dp.Augment(0.5, 0.5, crop=True, quarter_turns=0.5)},
    "views": {**CROPPED, "fit": "pad", "views": 3, "augment": dp.Augment(0.5, resized_crop=(0.2, 1), hue=20)},
    "turned": {"size": (20, 24), "base_size": (50, 30), "channels": 1, "augment": TURNED},
    "deep": {**CROPPED, "depth": 16, "window": None, "augment": dp.Augment(rotation=9, resized_crop=(0.5, 1))},
    "filters": {**CROPPED, **NORMALISED, "augment": FILTERS},
    "filters-gray": {"size": (20, 24), "channels": 1, "views": 2, "augment": replace(FILTERS, grayscale=0.0)},
    "filters-deep": {"size": 12, "depth": 16, "window": None, "augment": FILTERS},
    "trivial": {**CROPPED, "augment": dp.Augment(0.5, resized_crop=(0.2, 1), policy="trivial")},
    "trivial-gray": {"size": 20, "channels": 1, "augment": dp.Augment(policy="trivial")},
    "photo": {**CROPPED, **NORMALISED, "augment": dp.Augment.preset("photo")},
    "mammography": {"size": 20, "depth": 16, "augment": dp.Augment.preset("mammography")},
    "jitter": {**CROPPED, "depth": 16, "views": 2, "augment": dp.Augment(0.5, window_jitter=0.5)},
    "fast-filters": {**CROPPED, "parity": "fast", "augment": FILTERS},
    "fast": {**CROPPED, **NORMALISED, "parity": "fast"},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("varied"), pictures(9))


def loader(manifest: dp.Manifest, recipe: dp.Recipe, backend: str, **more: Any) -> dp.Loader:
    return dp.Loader(manifest, recipe, **{"batch_size": 4, "backend": backend, "seed": 3, "num_workers": 2, **more})


def outputs(loader: dp.Loader) -> tuple[torch.Tensor, torch.Tensor]:
    loader.set_epoch(0)
    batches = list(loader)
    return torch.cat([batch.image for batch in batches]), torch.cat([batch.matrix for batch in batches])


@pytest.mark.parametrize("name", VARIED)
def test_same_bits_on_every_backend_cold_and_warm(manifest: dp.Manifest, name: str) -> None:
    recipe = dp.Recipe(**VARIED[name])
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"none": [], "memory": []}
    for backend, mode in product(CPU_BACKENDS, found):
        with loader(manifest, recipe, backend, cache_mode=mode, matrix=True) as each:
            found[mode] += [outputs(each), outputs(each)]
            assert each.stats()["failed"] == 0
    sets = [found["none"] + found["memory"]] if recipe.parity == "exact" else list(found.values())
    for together in sets:  # fast parity resizes by DALI where nothing is cached
        for image, matrix in together:
            assert torch.equal(image, together[0][0])
            assert torch.equal(matrix, together[0][1])
    image = found["none"][0][0]
    views = (recipe.views,) if recipe.views > 1 else ()
    assert image.shape == (9, *views, recipe.channels, recipe.height, recipe.width)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_warm_cache_decodes_nothing_whatever_varies(manifest: dp.Manifest, tmp_path: Path, backend: str) -> None:
    cached: dict[str, Any] = {"cache_mode": "pinned", "cache_dir": tmp_path, "matrix": True}
    with loader(manifest, dp.Recipe(36), backend, cache_mode="pinned", cache_dir=tmp_path) as first:
        list(first)
        assert first.stats()["decoded"] == 9
    for name in ("resized-crop", "views", "base"):
        recipe = dp.Recipe(**{**VARIED[name], "base_size": 36, "fit": "stretch"})
        for more in ({}, {"mean": 0.1, "std": 0.3}):
            with loader(manifest, dp.Recipe(**{**recipe.to_dict(), **more, "augment": recipe.augment,
                                               "window": recipe.window}), backend, **cached) as warm:  # fmt: skip
                list(warm)
                assert warm.stats()["decoded"] == 0, name


def test_sizes_of_sources_are_kept_with_their_images(manifest: dp.Manifest, tmp_path: Path) -> None:
    """A warm run needs no source file beyond what identifies it: no byte of it is read."""
    recipe = dp.Recipe(**VARIED["resized-crop"])
    with loader(manifest, recipe, "torch", cache_mode="npy", cache_dir=tmp_path) as cold:
        wanted = list(cold)
    with loader(manifest, recipe, "torch", cache_mode="npy", cache_dir=tmp_path) as warm:
        for one, other in zip(warm, wanted):
            assert torch.equal(one.image, other.image)
        assert warm.stats()["decoded"] == 0


def test_views_are_draws_of_their_own_and_one_fetch(manifest: dp.Manifest) -> None:
    augment = dp.Augment(0.5, resized_crop=(0.2, 0.8))
    plain, viewed = (dp.Recipe(20, base_size=36, augment=augment, views=views) for views in (1, 3))
    with loader(manifest, plain, "torch") as one, loader(manifest, viewed, "torch", matrix=True) as three:
        first = torch.cat([batch.image for batch in one])
        batches = list(three)
        image = torch.cat([batch.image for batch in batches])
        assert image.shape == (9, 3, 3, 20, 20)
        assert batches[0].matrix is not None
        assert batches[0].matrix.shape == (4, 3, 2, 3)
        assert torch.equal(image[:, 0], first)
        assert not torch.equal(image[:, 0], image[:, 1])
        for batch in batches:
            assert batch.matrix is not None
            assert not torch.equal(batch.matrix[:, 0], batch.matrix[:, 1])
        assert three.stats()["decoded"] == 9


@pytest.mark.parametrize("name", ["resized-crop", "views", "turned"])
def test_resumes_after_every_batch_on_another_backend(manifest: dp.Manifest, name: str) -> None:
    recipe = dp.Recipe(**VARIED[name])
    with loader(manifest, recipe, "torch", cache_mode="memory", shuffle=True, batch_size=2) as whole:
        whole.set_epoch(1)
        batches, states = [], []
        for batch in whole:
            batches.append(batch)
            states.append(whole.state_dict())
    for done, state in enumerate(states[:-1], 1):
        backend = CPU_BACKENDS[done % 2]
        with loader(manifest, recipe, backend, cache_mode="memory", shuffle=True, batch_size=2) as rest:
            rest.load_state_dict(state)
            for one, other in zip(rest, batches[done:], strict=True):
                assert torch.equal(one.image, other.image)
                assert torch.equal(one.index, other.index)


@pytest.mark.parametrize("window", [dp.FixedWindow(2000, 1500), dp.PercentileWindow(), dp.VOIWindow(), None])
def test_windows_of_dicom_move(window: Any, tmp_path: Path) -> None:
    """By the sample's own draws: the same on every backend, in a dataset, and as the window that lies there."""
    rng = np.random.default_rng(3)
    files = {f"{i}.dcm": dicom(rng.integers(0, 4096, (30, 40)).astype(np.uint16), BitsStored=12) for i in range(5)}
    moved = manifest_of(tmp_path, files)
    if window is None:
        with pytest.raises(dp.ConfigError, match="only a recipe of depth=16 with a window"):
            dp.Recipe(16, depth=16, window=None, augment=dp.Augment(window_jitter=0.4))
        return
    recipe = dp.Recipe(16, depth=16, window=window, augment=dp.Augment(0.5, window_jitter=0.4), views=2)
    found = []
    for backend, mode in product(CPU_BACKENDS, ("none", "memory")):
        with loader(moved, recipe, backend, cache_mode=mode) as each:
            for _ in range(2):
                each.set_epoch(1)
                found.append(torch.cat([batch.image for batch in each]))
    assert all(torch.equal(each, found[0]) for each in found)
    assert not torch.equal(found[0][:, 0], found[0][:, 1])
    with dp.ImageDataset(moved, recipe, seed=3) as items:
        items.set_epoch(1)
        assert torch.equal(torch.stack([items[i][0] for i in range(5)]), found[0])
    if isinstance(window, dp.FixedWindow):
        drawn = draw(recipe.augment, 3, 1, np.arange(5), 2)
        center, width = (float(values[0]) for values in (drawn.window_center, drawn.window_width))
        there = dp.FixedWindow(2000 + center * 1500, 1500 * width)
        still = dp.Recipe(16, depth=16, window=there, augment=dp.Augment(0.5))
        with loader(moved, still, "torch") as each:
            each.set_epoch(1)
            assert torch.equal(next(iter(each)).image[0], found[0][0, 0])


def test_without_asking_there_is_no_matrix(manifest: dp.Manifest) -> None:
    with loader(manifest, dp.Recipe(8), "torch") as plain:
        assert all(batch.matrix is None and "matrix" not in batch for batch in plain)


def test_a_matrix_without_a_base_or_crops(manifest: dp.Manifest) -> None:
    """What plain recipes do, too: fit, flips and turns."""
    with loader(manifest, dp.Recipe((10, 20), augment=dp.Augment(1.0)), "torch", matrix=True) as plain:
        for batch in plain:
            assert batch.matrix is not None
            for i, matrix in zip(batch.index.tolist(), batch.matrix):
                with Image.open(manifest.resolve(i)) as picture:
                    corner = torch.tensor([[float(picture.width), float(picture.height)]])
                assert torch.allclose(dp.transform_points(corner, matrix), torch.tensor([[0.0, 10.0]]).double())


@pytest.mark.parametrize("name", ["resized-crop", "views", "turned"])
def test_a_dataset_gives_the_same(manifest: dp.Manifest, name: str) -> None:
    recipe = dp.Recipe(**VARIED[name])
    with loader(manifest, recipe, "dali-cpu") as each, dp.ImageDataset(manifest, recipe, seed=3) as items:
        image = torch.cat([batch.image for batch in each])
        for i in range(len(manifest)):
            assert torch.equal(items[i][0], image[i])


def test_draws_change_from_epoch_to_epoch_and_seed_to_seed(manifest: dp.Manifest) -> None:
    recipe = dp.Recipe(**VARIED["resized-crop"])
    found = []
    for seed, epoch in ((3, 0), (3, 1), (4, 0)):
        with loader(manifest, recipe, "torch", seed=seed) as each:
            each.set_epoch(epoch)
            found.append(torch.cat([batch.image for batch in each]).numpy())
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
