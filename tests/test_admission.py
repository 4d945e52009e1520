"""A cache smaller than the data answers for about the share of it that it has room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from archives import images, manifest_of, noise
from make_images import jpeg

import dali_pipes as dp
from dali_pipes.cache import MODES

COUNT = 40
RECIPE = dp.Recipe(size=64)
RAW = 3 * 64 * 64


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.jpg": jpeg(noise(i, 64, 64)) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files)


def options_of(mode: str, folder: Path, room: int) -> dict[str, Any]:
    name = "memory_bytes" if mode == "memory" else "disk_bytes"
    return {
        "cache_mode": mode,
        "cache_dir": None if mode == "memory" else folder,
        "cache_options": {name: room} | ({"memory_bytes": 1 << 20} if mode == "tiered" else {}),
    }


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_room_for_half_answers_for_about_half(manifest: dp.Manifest, tmp_path: Path, mode: str, shuffle: bool) -> None:
    whole = dp.Loader(manifest, RECIPE, batch_size=8, backend="torch", cache_mode="memory")
    each = {"memory": RAW + 256, "pinned": RAW}.get(mode, 16384)
    given = {"batch_size": 8, "backend": "torch", "shuffle": shuffle, "num_workers": 2}
    loader = dp.Loader(manifest, RECIPE, **given, **options_of(mode, tmp_path, COUNT * each // 2))
    with whole, loader, pytest.warns(dp.DaliPipesWarning, match="room for about .* of 40 samples") as said:
        batches = [list(whole), *(list(loader) for _ in range(4))]
    assert len(said) >= 1
    expected = images(batches[0])
    for epoch in batches[1:]:
        order = torch.cat([batch.index for batch in epoch])
        assert torch.equal(images(epoch), expected[order])
    hits = [each["hits"] for each in loader.stats()["epochs"]]
    most = 0.7 if mode == "disk" else 0.6  # PNG made the images smaller
    assert all(COUNT * 0.3 <= count <= COUNT * most for count in hits[1:]), hits


@pytest.mark.parametrize("mode", ["memory", "npy", "pinned"])
def test_room_for_all_is_used_in_silence(manifest: dp.Manifest, tmp_path: Path, mode: str) -> None:
    given = {"batch_size": 8, "backend": "torch"}
    with dp.Loader(manifest, RECIPE, **given, **options_of(mode, tmp_path, COUNT * 16384 * 2)) as loader:
        list(loader)
        list(loader)
        assert loader.stats()["epochs"][1]["hits"] == COUNT


def test_depth_16_and_workers(manifest: dp.Manifest) -> None:
    from torch.utils.data import DataLoader

    recipe = dp.Recipe(size=64, depth=16, window=None)
    room = {"memory_bytes": COUNT * (2 * RAW + 5000) // 2}
    with dp.ImageDataset(manifest, recipe, cache_mode="memory", cache_options=room) as dataset:
        loader = DataLoader(dataset, batch_size=8, num_workers=0)
        with pytest.warns(dp.DaliPipesWarning, match="memory_bytes in cache_options"):
            list(loader)
        before = dataset.stats()["hits"]
        list(loader)
        assert COUNT * 0.3 <= dataset.stats()["hits"] - before <= COUNT * 0.6
