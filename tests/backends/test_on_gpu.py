"""The loader on a GPU, where there is one: what tests on a CPU cannot show."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import coded, manifest_of, pictures

import dali_pipes as dp
from dali_pipes import backends
from dali_pipes.parity.fingerprint import fingerprint

pytestmark = pytest.mark.gpu

NAME = "dali-gpu"
VARIED = dp.Augment(0.5, 0.5, rotation=20, brightness=0.3)
RECIPES: dict[str, dict[str, Any]] = {
    "uint8": {},
    "float": {"mean": 0.5, "std": 0.25, "augment": VARIED},
    "uint16": {"depth": 16, "window": None, "augment": VARIED},
    "uint16-float": {"depth": 16, "window": None, "mean": 0.5, "std": 0.25},
    "crops": {"mean": 0.5, "std": 0.25, "base_size": 40, "augment": dp.Augment(resized_crop=(0.3, 1.0))},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("archive"), pictures(22))


def reference(manifest: dp.Manifest, recipe: dp.Recipe, **options: Any) -> Any:
    with dp.Loader(manifest, recipe, backend="torch", **options) as loader:
        return fingerprint(loader)


@pytest.mark.parametrize("which", RECIPES)
@pytest.mark.parametrize("mode", ["none", "pinned"])
def test_every_tensor_is_on_the_gpu_and_has_torchs_bits(
    which: str, mode: str, manifest: dp.Manifest, tmp_path: Path
) -> None:
    recipe = dp.Recipe((24, 33), **RECIPES[which])
    options: dict[str, Any] = {"batch_size": 5, "cache_mode": mode, "cache_dir": tmp_path if mode == "pinned" else None}
    expected = reference(manifest, recipe, **options)
    with dp.Loader(manifest, recipe, backend=NAME, **options) as loader:
        for epoch in range(3):
            loader.set_epoch(0)
            batches = list(loader)
            tensors = [value for batch in batches for value in batch.values() if isinstance(value, torch.Tensor)]
            assert {tensor.device.type for tensor in tensors} == {"cuda"}, epoch
            assert fingerprint(batches) == expected, epoch


@pytest.mark.parametrize("gpu_bytes", [0, 10 * 3 * 24 * 33, 2**30])
def test_warm_epochs_from_page_locked_memory(gpu_bytes: int, manifest: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe((24, 33), **RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 5, "cache_mode": "pinned", "cache_dir": tmp_path}
    expected = reference(manifest, recipe, **options)  # whose store has closed: its segments do not grow any more
    with dp.Loader(manifest, recipe, backend=NAME, gpu_bytes=gpu_bytes, **options) as loader:
        found = []
        for _ in range(2):
            loader.set_epoch(0)
            found.append(fingerprint(loader))
        assert found == [expected] * 2
        assert loader._store.page_lock() >= 22 * 3 * 24 * 33, "page-locked bytes"  # type: ignore[attr-defined]


def test_a_consumer_on_another_stream(manifest: dp.Manifest) -> None:
    """It is late by some milliseconds each time, and drops what it has read."""
    recipe = dp.Recipe((24, 33), **RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory"}
    expected = reference(manifest, recipe, **options)
    stream = torch.cuda.Stream()
    with dp.Loader(manifest, recipe, backend=NAME, **options) as loader:
        for epoch in range(4):
            loader.set_epoch(0)
            kept = []
            with torch.cuda.stream(stream):
                for batch in loader:
                    torch.cuda._sleep(2_000_000)
                    kept.append(batch.to("cpu") if epoch % 2 else batch._each(torch.clone))
                    del batch
            torch.cuda.synchronize()
            assert fingerprint(kept) == expected, epoch


def test_early_breaks(manifest: dp.Manifest) -> None:
    recipe = dp.Recipe((24, 33), **RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory"}
    expected = reference(manifest, recipe, **options)
    with dp.Loader(manifest, recipe, backend=NAME, **options) as loader:
        for taken in range(1, 6):
            for i, _ in enumerate(loader, 1):
                if i == taken:
                    break
            gc.collect()
            loader.set_epoch(0)
            assert fingerprint(loader) == expected


@pytest.mark.parametrize("parity", ["exact", "fast"])
@pytest.mark.parametrize("bad", [b"no picture", None])
def test_recovery_after_an_error(parity: str, bad: bytes | None, tmp_path: Path) -> None:
    """A file that is no picture, or half of one, in every batch: the others come, again and again."""
    files = {f"{i}.jpg": coded(i) for i in range(12)}
    for i in range(1, 12, 4):
        whole = files[f"{i}.jpg"]
        files[f"{i}.jpg"] = bad or whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    manifest = manifest_of(tmp_path, files)
    recipe = dp.Recipe(16, parity=parity, mean=0.5, std=0.25)  # type: ignore[arg-type]
    options: dict[str, Any] = {"batch_size": 4, "on_error": "skip"}
    with pytest.warns(dp.DaliPipesWarning), dp.Loader(manifest, recipe, backend=NAME, **options) as loader:
        found = [fingerprint(loader) for _ in range(3)]
    with pytest.warns(dp.DaliPipesWarning):
        expected = reference(manifest, recipe, **options)
    assert [[index for index, *_ in each] for each in found] == [[index for index, *_ in expected]] * 3
    if parity == "exact":
        assert found == [expected] * 3


@pytest.mark.parametrize(("mode", "broken"), [("none", "base_images"), ("memory", "launch_finish")])
def test_a_kernel_that_fails_leaves_a_backend_that_works(
    mode: str, broken: str, manifest: dp.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In DALI's Python function and in the ring: one batch's error, and the next batches are right."""
    from dali_pipes.arithmetic import kernels

    recipe = dp.Recipe((24, 33), **RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 4, "cache_mode": mode}
    expected = reference(manifest, recipe, **options)
    with dp.Loader(manifest, recipe, backend=NAME, **options) as loader:
        assert fingerprint(loader) == expected
        with monkeypatch.context() as patch:
            patch.setattr(kernels, broken, lambda *_, **__: 1 / 0)
            loader.set_epoch(0)
            if mode == "memory":
                with pytest.raises(dp.BackendError, match="did not get to the GPU"):
                    list(loader)
            else:
                assert fingerprint(loader) == expected, "decoded outside of DALI"
        for _ in range(3):
            loader.set_epoch(0)
            assert fingerprint(loader) == expected


def test_another_gpu(manifest: dp.Manifest) -> None:
    """Nothing of a loader made for the second GPU touches the first, whatever is current elsewhere."""
    if torch.cuda.device_count() < 2:
        pytest.skip("no NVIDIA GPU besides the first")
    recipe = dp.Recipe((24, 33), **RECIPES["float"])
    for mode in ("none", "memory"):
        options: dict[str, Any] = {"batch_size": 5, "cache_mode": mode}
        expected = reference(manifest, recipe, **options)
        torch.cuda.synchronize(0)
        before = torch.cuda.memory_allocated(0)
        with torch.cuda.device(1):
            loader = dp.Loader(manifest, recipe, backend=NAME, **options)
        with loader:
            batches = list(loader)
            assert {batch.image.device.index for batch in batches} == {1}
            assert {batch.label.device.index for batch in batches} == {1}
            assert torch.cuda.memory_allocated(0) == before
            assert fingerprint(batches) == expected


def test_auto_takes_the_gpu() -> None:
    assert backends.resolve("auto") == NAME
