"""Samples that are asked for together are what they are one by one, for fewer tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import manifest_of, one_of_each, pictures
from make_images import dicom

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.fetch.fetcher import Failure, Fetcher, Item, ready

WORKERS = 64


def ready_all(fetcher: Fetcher, samples: Sequence[int]) -> list[Item]:
    return [ready(item) for item in fetcher.requests(samples)]


def counted(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """Return the list of tasks that the fetcher's threads are given from here on."""
    tasks: list[Callable[..., Any]] = []
    submit = fetcher._threads.submit

    def note(task: Callable[..., Any], *arguments: Any) -> Any:
        tasks.append(task)
        return submit(task, *arguments)

    monkeypatch.setattr(fetcher._threads, "submit", note)
    return tasks


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Failure) or isinstance(other, Failure):
        return isinstance(one, Failure) and isinstance(other, Failure) and str(one.error) == str(other.error)
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("mode", cache.MODES)
@pytest.mark.parametrize("recipe", [dp.Recipe(16), dp.Recipe(16, depth=16)], ids=["8 bits", "16 bits"])
def test_many_give_what_each_gives(tmp_path: Path, mode: str, recipe: dp.Recipe) -> None:
    files = {**one_of_each(), "broken.png": b"\x89PNG\r\n\x1a\n and no more", **pictures(3)}
    manifest = manifest_of(tmp_path / "archive", files)
    place = tmp_path / "cache" if mode in cache.PERSISTENT_MODES else None
    rng = np.random.default_rng(0)
    with cache.open_store("none") as nothing, cache.open_store(mode, place) as store:
        slow = Fetcher(manifest, recipe, nothing, workers=2)
        fast = Fetcher(manifest, recipe, store, workers=2)
        expected = [ready(slow.request(sample)) for sample in range(len(manifest))]
        assert any(isinstance(each, Failure) for each in expected)
        for _ in range(6):  # the first are decoded, the others found, in every mixture
            samples = rng.integers(0, len(manifest), 9).tolist()
            before = fast.counts()
            items = ready_all(fast, samples)
            after = fast.counts()
            assert all(same(item, expected[sample]) for sample, item in zip(samples, items))
            lost = sum(isinstance(item, Failure) for item in items)
            had = {name: after[name] - before[name] for name in ("hits", "misses")}
            assert had["hits"] + had["misses"] == len(samples) - lost, "each sample is counted once"
        slow.close()
        fast.close()


@pytest.mark.parametrize(
    ("mode", "most"), [("memory", 0), ("pinned", 0), ("npy", 8), ("tensor-disk", 8), ("tiered", 8), ("disk", 32)]
)
def test_a_warm_batch_is_few_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, most: int) -> None:
    manifest = manifest_of(tmp_path / "archive", pictures(32))
    place = tmp_path / "cache" if mode in cache.PERSISTENT_MODES else None
    with cache.open_store(mode, place) as store:
        fetcher = Fetcher(manifest, dp.Recipe(8), store, workers=WORKERS)
        first = ready_all(fetcher, range(32))
        tasks = counted(fetcher, monkeypatch)
        again = ready_all(fetcher, range(32))
        assert len(tasks) == most
        assert all(same(*each) for each in zip(first, again))
        assert fetcher.counts() == {**fetcher.counts(), "decoded": 32, "misses": 32, "hits": 32}
        fetcher.close()


@pytest.mark.parametrize("mode", ["memory", "npy"])
def test_what_left_the_cache_is_decoded_again(tmp_path: Path, mode: str) -> None:
    manifest = manifest_of(tmp_path / "archive", pictures(12))
    with cache.open_store(mode, tmp_path / "cache" if mode == "npy" else None) as store:
        fetcher = Fetcher(manifest, dp.Recipe(8), store, workers=2)
        first = [np.array(item) for item in ready_all(fetcher, range(12))]
        for key in store.keys()[::3]:
            store.delete(key)
        again = ready_all(fetcher, range(12))
        assert all(same(*each) for each in zip(first, again))
        assert fetcher.counts() == {**fetcher.counts(), "decoded": 16, "misses": 16, "hits": 8}
        fetcher.close()


def test_windows_are_applied_to_what_is_found(tmp_path: Path) -> None:
    files = {f"{i}.dcm": dicom(np.arange(1024, dtype=np.uint16).reshape(32, 32) * (i + 1)) for i in range(5)}
    manifest = manifest_of(tmp_path / "archive", files)
    recipe = dp.Recipe(16, depth=16, window=dp.PercentileWindow(5, 95))
    with cache.open_store("memory") as store:
        fetcher = Fetcher(manifest, recipe, store, workers=2)
        once = [np.array(item) for item in ready_all(fetcher, range(5))]
        again = ready_all(fetcher, range(5))
        assert all(item.dtype == np.uint8 for item in once)
        assert all(same(*each) for each in zip(once, again))
        fetcher.close()
