"""A `dp.Batch` names its samples itself: other pixels, and only other pixels, give other features."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dali_pipes as dp
from dali_pipes.fetch import made
from dali_pipes.fetch.made import digests

COUNT = 8


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    root = tmp_path / "images"
    root.mkdir()
    lines = ["path,label"]
    for at in range(COUNT):
        write_jpeg(root / f"{at}.jpg", generator.integers(0, 256, (40, 48, 3), np.uint8))
        lines.append(f"{at}.jpg,{at}")
    (root / "list.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[dp.CachedModule]:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval().requires_grad_(False)
    with dp.CachedModule(module, tmp_path / "features", check_batch=False) as made:
        yield made


def features(cached: dp.CachedModule, root: Path, recipe: dp.Recipe, epoch: int = 0, **more: Any) -> torch.Tensor:
    """Of all samples, in the order of the manifest; each as the module itself gives it."""
    manifest = dp.Manifest.from_csv(root / "list.csv", root=root)
    more = {"backend": "torch", "batch_size": 3, "shuffle": True, **more}
    with dp.Loader(manifest, recipe, num_workers=1, **more) as loader:
        loader.set_epoch(epoch)
        found = torch.empty(COUNT, 4)
        for batch in loader:
            got = cached(batch)
            torch.testing.assert_close(got, cached.module(batch.image))
            found[batch.index] = got
    return found


def computed(cached: dp.CachedModule) -> int:
    """Samples computed since the last call."""
    count = int(cached.stats()["misses"])
    new = count - getattr(cached, "told", 0)
    cached.told = count  # type: ignore[assignment]
    return new


RECIPE = dp.Recipe(size=16, mean=0.5, std=0.25)


@pytest.mark.parametrize("mode", ["none", "memory", "pinned"])
@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_nothing_changed_computes_nothing(
    mode: str, backend: str, archive: Path, cached: dp.CachedModule, tmp_path: Path
) -> None:
    """Whatever the cache of images, the backend, the order and the process."""
    first = features(cached, archive, RECIPE)
    assert computed(cached) == COUNT
    folder = tmp_path / "pixels" if mode == "pinned" else None
    for epoch in range(2):
        again = features(cached, archive, RECIPE, epoch, cache_mode=mode, cache_dir=folder, backend=backend)
        assert torch.equal(again, first)
    assert computed(cached) == 0


def test_a_source_file_that_changes_is_computed_again_alone(archive: Path, cached: dp.CachedModule) -> None:
    features(cached, archive, RECIPE)
    computed(cached)
    write_jpeg(archive / "3.jpg", np.zeros((40, 48, 3), np.uint8))
    features(cached, archive, RECIPE)
    assert computed(cached) == 1
    (archive / "4.jpg").rename(archive / "other.jpg")
    (archive / "5.jpg").rename(archive / "4.jpg")
    (archive / "other.jpg").rename(archive / "5.jpg")
    features(cached, archive, RECIPE)
    assert computed(cached) == 0  # two that changed places are still what they were


@pytest.mark.parametrize(
    "changed",
    [
        {"fit": "crop"},
        {"mean": 0.4},
        {"interpolation": "bicubic"},
        {"window": dp.FixedWindow(center=10, width=5)},
        {"parity": "fast"},
    ],
)
def test_another_recipe_is_computed_anew(changed: dict[str, Any], archive: Path, cached: dp.CachedModule) -> None:
    features(cached, archive, RECIPE)
    computed(cached)
    features(cached, archive, replace(RECIPE, **changed))
    assert computed(cached) == COUNT
    features(cached, archive, RECIPE)
    assert computed(cached) == 0


def test_draws_that_took_effect_are_in_the_key(archive: Path, cached: dp.CachedModule) -> None:
    flips = replace(RECIPE, augment=dp.Augment(horizontal_flip=0.5))
    for epoch in range(12):
        features(cached, archive, flips, epoch)
    assert COUNT < computed(cached) <= 2 * COUNT  # each as it is, and mirrored
    crops = replace(RECIPE, augment=dp.Augment(resized_crop=(0.5, 1.0), probability={"resized_crop": 0.5}))
    for epoch in range(4):
        features(cached, archive, crops, epoch)
    assert COUNT < computed(cached) < 4 * COUNT  # each crop is another one, and none is none
    turned = replace(RECIPE, augment=dp.Augment(rotation=5.0))
    features(cached, archive, turned, 0)
    features(cached, archive, turned, 1)
    assert computed(cached) == 2 * COUNT
    features(cached, archive, turned, 1)
    assert computed(cached) == 0


def test_fast_parity_depends_on_who_decodes(archive: Path, cached: dp.CachedModule, tmp_path: Path) -> None:
    fast = replace(RECIPE, parity="fast")
    for more in ({"backend": "torch"}, {"backend": "dali-cpu"}, {"cache_mode": "memory"}):
        features(cached, archive, fast, **more)
        assert computed(cached) == COUNT
        features(cached, archive, fast, **more)
        assert computed(cached) == 0


def test_a_batch_keeps_its_digest_on_its_way_and_needs_ids_without_one(archive: Path, cached: dp.CachedModule) -> None:
    manifest = dp.Manifest.from_csv(archive / "list.csv", root=archive)
    with dp.Loader(manifest, RECIPE, batch_size=COUNT, backend="torch") as loader:
        batch = next(iter(loader))
    assert batch.digest is not None
    assert [len(each) for each in batch.digest] == [32] * COUNT
    assert len(set(batch.digest)) == COUNT
    assert "digest" not in dict(batch)
    moved = torch.utils._pytree.tree_map(lambda leaf: leaf, batch.to("cpu").to(torch.float32).cpu())
    assert moved.digest == batch.digest
    cached(batch)
    cached(moved)
    assert computed(cached) == COUNT
    mine = replace(batch, image=batch.image * 2, digest=None)
    with pytest.raises(dp.ConfigError, match="give cache_ids="):
        cached(mine)
    assert torch.equal(cached(mine, cache_ids=batch.id), cached(mine.image, cache_ids=batch.id))


def test_digests_are_computed_when_somebody_reads_them(
    archive: Path, cached: dp.CachedModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dp.Manifest.from_csv(archive / "list.csv", root=archive)
    calls: list[int] = []

    def counted(*arguments: Any) -> list[bytes]:
        calls.append(1)
        return digests(*arguments)

    monkeypatch.setattr(made, "digests", counted)
    with dp.Loader(manifest, RECIPE, batch_size=COUNT, backend="torch") as loader:
        batch = next(iter(loader))
    copied = torch.utils._pytree.tree_map(lambda leaf: leaf, batch.to("cpu"))
    assert calls == []
    assert len(batch.digest) == COUNT
    assert calls == []
    values = list(batch.digest)
    assert calls == [1]
    assert copied.digest == batch.digest == values
    assert copied.digest == tuple(values)
    assert batch.digest != values[::-1]
    assert batch.digest[-1] == values[-1]
    assert batch.digest[:2] == values[:2]
    assert hash(batch.digest) == hash(tuple(values))
    assert calls == [1], "of a batch and all its copies once"
    plain = copy.deepcopy(batch)
    assert type(plain.digest) is list
    assert plain.digest == values
