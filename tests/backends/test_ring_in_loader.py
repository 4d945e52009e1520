"""A `Loader` whose backend is `dali-gpu` on a GPU in main memory: order, last batches, breaks, errors, what stays."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from archives import coded, manifest_of, pictures
from fake_gpu import FakeGpu

import dali_pipes as dp
from dali_pipes import backends
from dali_pipes.backends import dali, dali_check
from dali_pipes.backends.ring import Ring
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.loader import loader

RECIPE = dp.Recipe((9, 12), mean=0.5, std=0.25, augment=dp.Augment(0.5, rotation=20, brightness=0.3))


@pytest.fixture
def gpu(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """What stands between `Loader` and the ring takes a fake device for a CUDA device."""
    fake = FakeGpu(compiled)

    def taken(batch: dp.Batch, made: Any) -> dp.Batch:
        if made is not None:
            made.synchronize()
        return batch

    def ring_of(recipe: dp.Recipe, stream: object, threads: int, gpu_bytes: int = 0) -> Ring:
        return Ring(recipe, fake, threads=threads, keep_bytes=gpu_bytes)

    monkeypatch.setattr(backends, "resolve", lambda name, *_, **__: name)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda number: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda number: SimpleNamespace())
    monkeypatch.setattr(dali, "ring_of", ring_of)
    monkeypatch.setattr(dali_check, "check_ring", lambda number: None)
    monkeypatch.setattr(dali.DaliBackend, "beside", lambda self, values: values)
    monkeypatch.setattr(dali.DaliBackend, "mark", lambda self: fake.mark())
    monkeypatch.setattr(loader, "take_over", taken)
    return fake


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("archive"), pictures(11))


def same(one: dp.Batch, other: dp.Batch) -> bool:
    values = (
        (getattr(batch, name).numpy().tobytes() for name in ("image", "label", "index")) for batch in (one, other)
    )
    return all(a == b for a, b in zip(*values))


def reference(manifest: dp.Manifest, epochs: int, **options: Any) -> list[list[dp.Batch]]:
    found = []
    with dp.Loader(manifest, RECIPE, backend="torch", **options) as batches:
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            found.append(list(batches))
    return found


def run(batches: dp.Loader, epoch: int) -> Iterator[dp.Batch]:
    batches.set_epoch(epoch)
    return iter(batches)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("mode", "kept"), [("memory", 0), ("memory", 4), ("memory", 100), ("none", 4), ("none", 100)])
def test_epochs_are_those_of_torch(gpu: FakeGpu, manifest: dp.Manifest, mode: str, kept: int, drop_last: bool) -> None:
    options: dict[str, Any] = {
        "batch_size": 3, "shuffle": True, "seed": 5, "cache_mode": mode, "drop_last": drop_last, "num_workers": 2
    }  # fmt: skip
    size = 3 * 9 * 12
    expected = reference(manifest, 3, **options)
    copies = []
    with dp.Loader(manifest, RECIPE, backend="dali-gpu", gpu_bytes=kept * 512, **options) as batches:
        for epoch, those in enumerate(expected):
            before = gpu.log.count(("copy", size))
            found = list(run(batches, epoch))
            assert len(found) == len(those)
            assert all(same(one, other) for one, other in zip(found, those)), f"epoch {epoch}"
            copies.append(gpu.log.count(("copy", size)) - before)
        whole = 9 if drop_last else 11
        assert copies[0] == whole
        if kept == 0:
            assert copies == [whole] * 3
        elif kept == 100:
            assert sum(copies) <= 11, "what stays is not copied again"
            assert batches.stats()["decoded"] <= 11, "nor is it fetched"
        elif not drop_last:
            assert copies[1:] == [11 - kept] * 2


def test_an_early_break_leaves_nothing_behind(gpu: FakeGpu, manifest: dp.Manifest) -> None:
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory", "num_workers": 1}
    expected = reference(manifest, 2, **options)
    with dp.Loader(manifest, RECIPE, backend="dali-gpu", **options) as batches:
        for taken in range(1, 5):
            iterator = run(batches, taken % 2)
            first = [next(iterator) for _ in range(taken)]
            assert all(same(one, other) for one, other in zip(first, expected[taken % 2]))
            del iterator
        for epoch in range(2):
            found = list(run(batches, epoch))
            assert all(same(one, other) for one, other in zip(found, expected[epoch], strict=True))
    assert gpu.done == len(gpu.queue), "closing waits for what is under way"


def test_an_error_ends_its_epoch_only(gpu: FakeGpu, manifest: dp.Manifest) -> None:
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory", "num_workers": 1}
    expected = reference(manifest, 1, **options)[0]
    gpu.failing = {7: RuntimeError("the bus is on fire")}
    with dp.Loader(manifest, RECIPE, backend="dali-gpu", **options) as batches:
        iterator = run(batches, 0)
        assert same(next(iterator), expected[0])
        with pytest.raises(dp.BackendError, match="dali-gpu: a batch of 2 did not get to the GPU: the bus is on fire"):
            list(iterator)
        found = list(run(batches, 0))
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
def test_bad_samples_and_two_iterators_at_once(gpu: FakeGpu, tmp_path: Path) -> None:
    files = {f"{i}.jpg": coded(i) if i != 2 else b"no picture" for i in range(6)}
    made = manifest_of(tmp_path, files)
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory", "num_workers": 1, "on_error": "substitute"}
    expected = reference(made, 1, **options)[0]
    with dp.Loader(made, RECIPE, backend="dali-gpu", gpu_bytes=10**6, **options) as batches:
        one, other = run(batches, 0), run(batches, 0)
        for those in expected:
            assert same(next(one), those)
            assert same(next(other), those)
        again = list(run(batches, 0))
        assert all(same(a, b) for a, b in zip(again, expected, strict=True))
        assert again[1].index.tolist() == [3, 3]


def test_without_a_gpu_gpu_bytes_is_noticed(manifest: dp.Manifest) -> None:
    told = pytest.warns(dp.DaliPipesWarning, match="gpu_bytes is not used: the backend is 'torch'")
    with dp.Loader(manifest, RECIPE, batch_size=2, backend="torch", gpu_bytes=10**6) as batches, told:
        list(batches)
    with pytest.raises(dp.ConfigError, match="gpu_bytes=-1; give a whole number of at least 0"):
        dp.Loader(manifest, RECIPE, batch_size=2, backend="torch", gpu_bytes=-1)


def test_images_that_stay_are_not_mixed_with_jpegs(gpu: FakeGpu) -> None:
    backend = backends.create("dali-gpu", RECIPE, batch_size=2, threads=1, decode=True, device_id=0, gpu_bytes=10**6)
    draws = dp.draws.draw(None, 0, 0, np.arange(2))
    with pytest.raises(dp.BackendError, match="images that stay on the GPU came in one batch with a JPEG"):
        backend.run([backends.Named(0, None), Encoded(np.zeros(9, np.uint8))], draws)
    backend.close()
