"""19, on the whole path: neither memory nor file descriptors grow with the number of epochs.

In a process of its own, so that nothing but the loader is measured.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dali_pipes as dp
from tests.faults.pictures import RECIPE, make_set, start


def resident() -> int:
    """Bytes of memory of this process that are not those of a file.

    Not the private bytes of ``smaps``: pages of a shared library, 50 MB of DALI's, count as private as soon as the
    last other process that uses it ends.
    """
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) << 10


def measure() -> tuple[int, int, int, int]:
    """Bytes, descriptors, threads, and memory maps of files."""
    gc.collect()
    maps = sum("/" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return resident(), len(os.listdir("/proc/self/fd")), threading.active_count(), maps


def epochs_of_one_loader(loader: dp.Loader, first: int, count: int) -> None:
    for epoch in range(first, first + count):
        loader.set_epoch(epoch)
        batches = iter(loader)
        if epoch % 3 == 2:  # left after its first batch
            next(batches)
            del batches
        else:
            assert sum(len(batch.label) for batch in batches) == len(loader.manifest)


def soak(manifest: dp.Manifest, folder: Path, backend: str, warm_up: int, epochs: int, seconds: float) -> None:
    """In a child: epochs of one loader, at least so many and for so long. Bounds what grew after the warm-up."""
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "num_workers": 2}
    with dp.Loader(manifest, RECIPE, backend=backend, cache_mode="pinned", cache_dir=folder, **options) as loader:
        epochs_of_one_loader(loader, 0, warm_up)
        memory, handles, threads, maps = measure()
        done, end = 0, time.monotonic() + seconds
        while done < epochs or time.monotonic() < end:
            epochs_of_one_loader(loader, warm_up + done, 30)
            done += 30
        after = measure()
        stats = loader.stats()
    print(f"{backend}: {done} epochs; bytes {memory} -> {after[0]}, descriptors {handles} -> {after[1]}")  # noqa: T201
    assert stats["decoded"] == len(manifest)
    assert after[1] <= handles + 1, "a pipe of an iteration that is just ending"
    assert after[2] <= threads + 1
    assert after[3] <= maps
    assert after[0] <= memory * 1.01 + (1 << 20)


def reopen(manifest: dp.Manifest, folder: Path, backend: str, warm_up: int, loaders: int) -> None:
    """In a child: many loaders, one after the other, some never closed. Nothing of them stays."""

    def use(number: int) -> None:
        recipe = RECIPE
        loader = dp.Loader(
            manifest, recipe, batch_size=8, backend=backend, cache_mode="pinned", cache_dir=folder, num_workers=2
        )
        assert sum(len(batch.label) for batch in loader) == len(manifest)
        if number % 2:
            loader.close()

    for number in range(warm_up):
        use(number)
    memory, handles, threads, maps = measure()
    for number in range(loaders):
        use(number)
    after = measure()
    print(f"{backend}: {loaders} loaders; bytes {memory} -> {after[0]}, descriptors {handles} -> {after[1]}")  # noqa: T201
    assert after[1] <= handles + 1
    assert after[2] <= threads + 1
    assert after[3] <= maps
    assert after[0] <= memory * 1.01 + (loaders << 15) + (2 << 20)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """32 tiny files, a few of them DICOM."""
    return make_set(tmp_path_factory.mktemp("images"), 32)


def run(*arguments: Any) -> None:
    child = start(*arguments)
    child.join(3600)
    assert child.exitcode == 0


@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_epochs_leave_nothing_behind(backend: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    run(soak, manifest, tmp_path, backend, 30, 60, 0)


@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_loaders_leave_nothing_behind(backend: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    run(reopen, manifest, tmp_path, backend, 6, 18)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_five_minutes(backend: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    run(soak, manifest, tmp_path, backend, 90, 60, 300)
