"""Samples that are looked up together give what they give one by one, and trusted files are not looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import manifest_of, one_of_each, pictures
from make_images import raster

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.fetch import known, lookup
from dali_pipes.fetch.fetcher import Deep, Failure, Fetcher, ready
from dali_pipes.manifest.manifest import Manifest
from tests.settled import settle

RECIPES = {
    "plain": dp.Recipe(size=(16, 12)),
    "deep": dp.Recipe(size=(16, 12), channels=1, depth=16, window=dp.VOIWindow()),
    "jittered": dp.Recipe(
        size=(16, 12), channels=1, depth=16, window=dp.VOIWindow(), augment=dp.Augment(window_jitter=0.1)
    ),
    "with sizes": dp.Recipe(size=(16, 12), base_size=(20, 20)),
}


def fetched(manifest: Manifest, recipe: dp.Recipe, folder: Path, together: bool, **options: Any) -> dict[str, Any]:
    """What two rounds of requests give, and all that the fetcher says of them."""
    with cache.open_store("pinned", folder) as store:
        fetcher = Fetcher(manifest, recipe, store, workers=2, **options)
        try:
            samples = list(range(len(manifest)))
            rounds = []
            for _ in range(2):
                asked = fetcher.requests(samples) if together else [fetcher.request(sample) for sample in samples]
                rounds.append([as_plain(ready(item)) for item in asked])
            counts = {name: value for name, value in fetcher.counts().items() if name != "seconds_decoding"}
            places = np.array(samples)
            extents = fetcher.extents(places)
            return {
                "items": rounds,
                "counts": counts,
                "failures": {sample: str(error) for sample, error in fetcher.failures().items()},
                "made": fetcher.made(places).tolist(),
                "extents": None if extents is None else extents.tolist(),
            }
        finally:
            fetcher.close()


def as_plain(item: Any) -> Any:
    if isinstance(item, Deep):
        return item.image.tolist(), item.attributes
    return str(item.error) if isinstance(item, Failure) else item.tolist()


@pytest.fixture
def files(tmp_path: Path) -> Manifest:
    """All kinds of files, two that cannot be decoded, and one that is not there."""
    manifest = manifest_of(tmp_path / "archive", {**one_of_each(), "bad.jpg": b"\xff\xd8\xff no", "x.txt": b"text"})
    gone = manifest_of(tmp_path / "archive", {"gone.jpg": b"x"})
    settle(tmp_path / "archive")
    (tmp_path / "archive" / "gone.jpg").unlink()
    return Manifest.concat([manifest, gone])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("some", [False, True], ids=["all", "half"])
def test_together_and_one_by_one(name: str, some: bool, files: Manifest, tmp_path: Path) -> None:
    """With an empty cache, with one that holds half of the samples, and with a full one."""
    recipe = RECIPES[name]
    if some:
        half = files.subset(range(0, len(files), 2))
        for folder in ("one", "together"):
            fetched(half, recipe, tmp_path / folder, False)
    for _ in range(2):
        want = fetched(files, recipe, tmp_path / "one", False)
        assert fetched(files, recipe, tmp_path / "together", True) == want
    assert want["counts"]["decoded"] == 0
    assert want["counts"]["hits"] > len(files)


def test_a_warm_run_asks_for_no_sample_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path / "archive", pictures(40))
    settle(tmp_path / "archive")
    for recipe in RECIPES.values():
        fetched(manifest, recipe, tmp_path / "cache", True)
    monkeypatch.setattr(Fetcher, "_load_from", lambda *_: pytest.fail("it was fetched by itself"))
    for recipe in RECIPES.values():
        assert fetched(manifest, recipe, tmp_path / "cache", True)["counts"]["hits"] == 80


def test_attributes_without_room_are_read_again(
    files: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = fetched(files, RECIPES["deep"], tmp_path / "cache", False)
    monkeypatch.setattr(known, "MOST", 200)
    found = fetched(files, RECIPES["deep"], tmp_path / "cache", True)
    assert found["items"] == want["items"]
    assert found["counts"]["decoded"] == 0


@pytest.mark.parametrize("way", ["loader", "dataset", "warm"])
def test_trusted_sources_are_not_looked_at(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced file is not noticed, one that the cache lacks is decoded as it is now."""
    manifest = manifest_of(tmp_path / "archive", pictures(6))
    settle(tmp_path / "archive")
    recipe = RECIPES["plain"]

    def images(samples: Manifest, trust: bool) -> tuple[list[Any], int]:
        options: dict[str, Any] = {"cache_mode": "pinned", "cache_dir": tmp_path / "cache", "trust_sources": trust}
        if way == "dataset":
            with dp.ImageDataset(samples, recipe, **options) as dataset:
                return [dataset[i][0].tolist() for i in range(len(samples))], dataset.stats()["decoded"]
        decoded = 0
        if way == "warm":
            decoded = dp.warm(samples, recipe, tmp_path / "cache", trust_sources=trust).decoded
        with dp.Loader(samples, recipe, batch_size=2, backend="torch", **options) as loader:
            found = [image.tolist() for batch in loader for image in batch.image]
            return found, loader.stats()["decoded"] + decoded

    before, _ = images(manifest.subset(range(5)), trust=False)
    path = Path(manifest.resolve(2))
    path.write_bytes(raster(np.full((9, 9, 3), 7, np.uint8), "png"))
    settle(tmp_path / "archive")
    looked = []
    monkeypatch.setattr(lookup, "_state", lambda path: looked.append(path))
    trusted, decoded = images(manifest, trust=True)
    assert trusted[:5] == before
    assert decoded == 1  # the sixth
    assert not looked
    monkeypatch.undo()
    noticed, decoded = images(manifest, trust=False)
    assert decoded == 1
    assert [one == other for one, other in zip(noticed, trusted)] == [True, True, False, True, True, True]
    again, decoded = images(manifest, trust=True)  # the cache knows two contents of that path: it is looked at
    assert decoded == 0
    assert again == noticed


def test_a_slow_folder_is_asked_for_few_files_in_each_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path / "archive", pictures(12))
    settle(tmp_path / "archive")
    fetched(manifest, RECIPES["plain"], tmp_path / "cache", True)
    monkeypatch.setattr(lookup, "SLOW", -1.0)
    with cache.open_store("pinned", tmp_path / "cache") as store:
        fetcher = Fetcher(manifest, RECIPES["plain"], store, workers=2)
        try:
            for first in (0, 4):
                asked = fetcher.requests(range(first, first + 4))
                assert len({id(each.every) for each in asked}) == (2 if first else 1)  # type: ignore[union-attr]
                assert all(isinstance(ready(each), np.ndarray) for each in asked)
        finally:
            fetcher.close()
