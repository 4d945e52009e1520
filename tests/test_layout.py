"""Types of 16 bits and the order of axes: the same bits from every backend and from `ImageDataset`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, MEAN, STD, images, manifest_of, noise
from hypothesis import given
from hypothesis import strategies as st
from make_images import dicom, jpeg

import dali_pipes as dp
from dali_pipes.backends.layout import Layout
from dali_pipes.draws import draw
from dali_pipes.finish.finish import Finish

RECIPES = {
    "plain": dp.Recipe(size=(18, 21), mean=MEAN, std=STD),
    "gray": dp.Recipe(size=(40, 33), channels=1, mean=0.4, std=0.2),
    "deep": dp.Recipe(size=24, channels=1, depth=16, window=None, mean=0.1, std=0.001),
    "varied": dp.Recipe(size=24, mean=MEAN, std=STD, augment=dp.Augment(0.5, 0.5, rotation=30, brightness=0.3)),
    "fast": dp.Recipe(size=24, mean=MEAN, std=STD, parity="fast", augment=dp.Augment(0.5)),
}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.jpg": jpeg(noise(i, 30 + i, 40)) for i in range(5)}
    deep = np.random.default_rng(0).integers(0, 4096, (31, 25)).astype(np.uint16)
    return manifest_of(tmp_path_factory.mktemp("archive"), {**files, "deep.dcm": dicom(deep, BitsStored=12)})


def even(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 rounded to the nearest value of `dtype`, ties to even: by NumPy, and by integers for bfloat16."""
    x = values.contiguous().numpy()
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(x.astype(np.float16))
    if dtype == torch.float32:
        return values
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return torch.from_numpy(rounded.astype(np.uint16)).view(torch.bfloat16)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    whole = {2: torch.int16, 4: torch.int32, 1: torch.uint8}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def loaded(manifest: dp.Manifest, recipe: dp.Recipe, backend: str) -> torch.Tensor:
    with dp.Loader(manifest, recipe, batch_size=4, backend=backend, seed=4) as loader:
        batches = list(loader)
    if recipe.memory_format == "channels_last":
        assert all(batch.image.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    else:
        assert all(batch.image.is_contiguous() for batch in batches)
    return images(batches)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_backend_rounds_alike(manifest: dp.Manifest, name: str, dtype: Any, memory_format: Any) -> None:
    recipe = RECIPES[name]
    chosen = manifest if name in ("deep", "gray") else manifest.subset(range(5))
    asked = replace(recipe, dtype=dtype, memory_format=memory_format)
    for backend in CPU_BACKENDS:
        expected = even(loaded(chosen, recipe, backend), DTYPES[dtype])
        assert same(loaded(chosen, asked, backend), expected), backend
    with dp.ImageDataset(chosen, asked, seed=4) as dataset:
        items = torch.stack([dataset[i][0] for i in range(len(chosen))])
    assert same(items, even(loaded(chosen, recipe, "torch"), DTYPES[dtype]))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    "recipe", [dp.Recipe(size=9), dp.Recipe(size=9, channels=1, depth=16, window=None)], ids=["8", "16"]
)
def test_integers_come_in_either_order(manifest: dp.Manifest, recipe: dp.Recipe, backend: str) -> None:
    chosen = manifest.subset([5]) if recipe.depth == 16 else manifest.subset(range(5))
    found = loaded(chosen, replace(recipe, memory_format="channels_last"), backend)
    assert torch.equal(found.contiguous(), loaded(chosen, recipe, backend))


@given(st.integers(0, 2**32 - 1), st.sampled_from([*DTYPES]))
def test_ties_and_what_float16_cannot_hold(seed: int, dtype: Any) -> None:
    """A deviation so small that values lie beyond float16, and means that make ties."""
    rng = np.random.default_rng(seed)
    recipe = dp.Recipe(size=(3, 17), mean=(0.5, 0.25, 1.0), std=tuple(float(2.0**-n) for n in rng.integers(0, 22, 3)))
    image = rng.integers(0, 256, (3, 3, 17), dtype=np.uint8)
    changes = Finish(recipe).changes(draw(None, 0, 0, np.zeros(1, np.int64)))
    plain = torch.empty(3, 3, 17)
    Finish(recipe).write(plain.numpy(), image, changes, 0)
    layout = Layout(replace(recipe, dtype=dtype))
    out = layout.empty(1)
    layout.write(out[0], image, changes, 0)
    assert same(out[0], even(plain, DTYPES[dtype]))
    assert same(layout.of(plain[None])[0], even(plain, DTYPES[dtype]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kept_batches_are_not_overwritten(manifest: dp.Manifest, dtype: Any) -> None:
    recipe = replace(RECIPES["plain"], dtype=dtype, memory_format="channels_last")
    with dp.Loader(manifest.subset(range(5)), recipe, batch_size=1, backend="torch", cache_mode="memory") as loader:
        kept = [batch.image for _ in range(4) for batch in loader]
        loader.set_epoch(0)
        copies = [batch.image.clone() for _ in range(4) for batch in loader]
    assert all(torch.equal(a, b) for a, b in zip(kept, copies))


def test_values_that_recipes_refuse() -> None:
    with pytest.raises(dp.ConfigError, match="without mean and std integers come out"):
        dp.Recipe(size=4, dtype="float16")
    with pytest.raises(dp.ConfigError, match="'float32', 'float16', 'bfloat16'"):
        dp.Recipe(size=4, mean=0.5, std=0.5, dtype="half")  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="5 axes"):
        dp.Recipe(size=4, views=2, memory_format="channels_last")


def test_what_changes_a_digest(tmp_path: Path) -> None:
    recipe = RECIPES["plain"]
    assert replace(recipe, dtype="float16").digest != recipe.digest
    assert replace(recipe, memory_format="channels_last").digest == recipe.digest
    assert replace(recipe, dtype="float16").base_digest == recipe.base_digest
    for each in (replace(recipe, dtype="bfloat16", memory_format="channels_last"), recipe):
        assert dp.Recipe.from_json(each.to_json()) == each
        assert dp.Recipe.from_toml(each.to_toml()) == each
