"""The ranks of a machine keep one copy in memory, and budgets are divided among those that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipes import CachedDataset, ImageDataset, Loader, Manifest, Recipe, cache
from dali_pipes.cache.limits import default_memory_bytes, local_ranks, memory_limit
from dali_pipes.cache.named import NamedMemoryStore
from dali_pipes.cache.shared import SharedMemoryStore
from dali_pipes.loader.sharing import launch_name, shared_options

LAUNCH = {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in {**LAUNCH, "TORCHELASTIC_RUN_ID": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return f"MASTER_ADDR=here MASTER_PORT=29500 TORCHELASTIC_RUN_ID={tmp_path}"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for number in range(8):
        Image.fromarray(np.full((20, 30, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    return Manifest.from_records([{"path": f"{number}.png"} for number in range(8)], root=tmp_path)


def test_a_launch_has_a_name(two_ranks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch_name() == two_ranks
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name)
    assert launch_name() == f"parent={os.getppid()}"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert launch_name() is None


def test_what_the_user_says_counts(two_ranks: str, manifest: Manifest) -> None:
    assert shared_options("memory", None, manifest)["shared"].startswith(two_ranks)
    assert shared_options("memory", {"shared": False}, manifest, workers=True) == {"shared": False}
    assert shared_options("npy", {"disk_bytes": 5}, manifest) == {"disk_bytes": 5}


def test_other_samples_and_other_options_are_another_copy(two_ranks: str, manifest: Manifest) -> None:
    few = manifest.subset(range(3))
    names = [
        shared_options("memory", options, samples)["shared"]
        for samples in (manifest, few)
        for options in ({}, {"memory_bytes": 1 << 20}, {"secret": b"k" * 32})
    ]
    assert len(set(names)) == 6
    assert not any("kkk" in name for name in names)
    assert shared_options("memory", None, manifest.subset(range(8)))["shared"] == names[0]


@pytest.mark.parametrize("workers", [False, True])
def test_alone_or_without_room_it_is_as_ever(
    workers: bool, two_ranks: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"memory_bytes": 1 << 60} | ({"shared": True} if workers else {})
    assert shared_options("memory", {"memory_bytes": 1 << 60}, manifest, workers=workers) == expected
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert shared_options("memory", {}, manifest, workers=workers) == ({"shared": True} if workers else {})


def test_ranks_without_a_secret_keep_copies_of_their_own(
    two_ranks: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/no-folder")
    with Loader(manifest, Recipe(8), batch_size=4, backend="torch", cache_mode="memory") as loader:
        for _ in range(2):
            list(loader)
        stats = loader.stats()
    assert (stats["decoded"], stats["hits"]) == (8, 8)
    assert "each keeps a copy of its own" in caplog.text


def test_which_stores_share(two_ranks: str, manifest: Manifest) -> None:
    recipe = Recipe(size=8)
    with Loader(manifest, recipe, batch_size=2, cache_mode="memory", rank=0, world_size=2) as loader:
        assert isinstance(loader._store, NamedMemoryStore)
    dataset = ImageDataset(manifest, recipe, cache_mode="memory")
    assert isinstance(dataset._store, NamedMemoryStore)
    dataset.close()
    kept = CachedDataset([1, 2])  # its keys are numbers, which mean something else in another data set
    assert isinstance(kept._store, SharedMemoryStore)
    kept.close()


def test_budgets_are_divided(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = default_memory_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_ranks() == 4
    assert default_memory_bytes() == whole // 4
    assert cache.open_store("memory").stats()["budget"] == whole // 4
    with cache.open_store("memory", shared="a test of budgets") as store:
        assert store.stats()["budget"] == whole
    assert not caplog.records
    cache.open_store("memory", memory_bytes=memory_limit() // 2)
    assert "for each of 4 ranks of this machine is more than this process may use" in caplog.text
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert local_ranks() == 1


RANK = """
import json, sys
from dali_pipes import Loader, Manifest, Recipe
root, rank = sys.argv[1], int(sys.argv[2])
manifest = Manifest.from_records([{"path": f"{n}.png"} for n in range(8)], root=root)
place = {"rank": rank, "world_size": 2, "backend": "torch"}
with Loader(manifest, Recipe(size=8), batch_size=2, cache_mode="memory", shuffle=True, **place) as loader:
    for epoch in range(3):
        loader.set_epoch(epoch)
        seen = [pair for batch in loader for pair in zip(batch.index.tolist(), batch.image)]
        means = {sample: float(image.float().mean()) for sample, image in seen}
        print(json.dumps([means, loader.stats()["decoded"]]), flush=True)
        sys.stdin.readline()
"""


def test_what_one_rank_decodes_the_other_finds(manifest: Manifest, tmp_path: Path) -> None:
    environment = {**os.environ, **LAUNCH, "TORCHELASTIC_RUN_ID": str(tmp_path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    decoded = []
    for _ in range(3):
        said = [json.loads(rank.stdout.readline()) for rank in ranks]  # type: ignore[union-attr]
        assert len(said[0][0] | said[1][0]) == 8
        decoded.append(said[0][1] + said[1][1])
        for rank in ranks:
            rank.stdin.write("\n")  # type: ignore[union-attr]
            rank.stdin.flush()  # type: ignore[union-attr]
    assert [rank.wait() for rank in ranks] == [0, 0]
    for rank in ranks:
        rank.communicate()
    assert decoded == [8, 8, 8], "each file once, whichever rank needs it"
