"""4, on the whole path: whatever becomes of the cache, batches are bit for bit those without one.

A failure is counted and warned of once; a strict cache raises instead.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dali_pipes as dp
import dali_pipes.cache.files
from dali_pipes import cache
from dali_pipes.cache import CacheError, SecretError, open_store, upkeep
from tests.faults.conftest import MODES
from tests.faults.pictures import DEEP, RECIPE, make_set, start
from tests.faults.syscalls import Os

WAYS = [*MODES, "tiered"]
Step = Callable[[], object]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """14 tiny files, four of them DICOM."""
    return make_set(tmp_path_factory.mktemp("images"), 14)


@pytest.fixture(scope="module")
def expected(manifest: dp.Manifest) -> torch.Tensor:
    """Two epochs without a cache."""
    return epochs(manifest)[0]


def loader(manifest: dp.Manifest, recipe: dp.Recipe = RECIPE, **options: Any) -> dp.Loader:
    return dp.Loader(manifest, recipe, batch_size=4, backend="torch", shuffle=True, seed=3, num_workers=2, **options)


def epochs(
    manifest: dp.Manifest,
    recipe: dp.Recipe = RECIPE,
    *,
    between: Step | None = None,
    midway: Step | None = None,
    **more: Any,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The images of two epochs and the counters; `between` happens between them and `midway` in the second."""
    images = []
    with loader(manifest, recipe, **more) as batches:
        for epoch in (0, 1):
            batches.set_epoch(epoch)
            for number, batch in enumerate(batches):
                images.append(batch.image.clone())
                if midway is not None and epoch and number == 1:
                    midway()
            if between is not None and not epoch:
                between()
        assert not batches.failures()
        return torch.cat(images), batches.stats()


def warned_once(log: pytest.LogCaptureFixture, at_least: int = 1) -> None:
    warnings = [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]
    assert at_least <= len(warnings) <= 6, "one for each part of the cache, whatever the number of failures"
    assert len(set(warnings)) == len(warnings)


def flip(folder: Path, seed: int) -> int:
    """Changes random bytes of every file below a folder; how many files."""
    rng, count = random.Random(seed), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        data = bytearray(path.read_bytes()[: 1 << 16])
        for _ in range(1 + len(data) // 50):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        with path.open("r+b") as file:
            file.write(data)
        count += 1
    return count


@pytest.mark.parametrize("recipe", [RECIPE, DEEP], ids=["8-bit", "16-bit"])
@pytest.mark.parametrize("mode", [*WAYS, "memory"])
def test_cold_and_warm(mode: str, recipe: dp.Recipe, manifest: dp.Manifest, tmp_path: Path) -> None:
    without, _ = epochs(manifest, recipe)
    options = {"cache_mode": mode, "cache_options": {"strict": True}}
    options |= {} if mode == "memory" else {"cache_dir": tmp_path}
    cold, counts = epochs(manifest, recipe, **options)
    assert torch.equal(cold, without)
    assert (counts["decoded"], counts["hits"], counts["misses"]) == (14, 14, 14)
    if mode != "memory":
        warm, counts = epochs(manifest, recipe, **options)
        assert torch.equal(warm, without)
        assert (counts["decoded"], counts["hits"], counts["cache"]["errors"]) == (0, 28, 0)


@pytest.mark.parametrize("mode", WAYS)
def test_a_budget_of_a_few_entries(mode: str, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path) -> None:
    budget = 40_000 if mode == "pinned" else 4 * 8192
    options = {"disk_bytes": budget, "memory_bytes": 3000}
    with pytest.warns(dp.DaliPipesWarning, match="room for about"):
        got, counts = epochs(manifest, cache_mode=mode, cache_dir=tmp_path, cache_options=options)
    assert torch.equal(got, expected)
    assert counts["hits"] > 0
    files = [path.stat() for path in (tmp_path / ("npy" if mode == "tiered" else mode)).rglob("*") if path.is_file()]
    assert sum(status.st_size for status in files) <= budget + 8192, "two entries more where two are put at once"


def on_a_full_disk(manifest: dp.Manifest, mode: str, folder: Path, limit: int) -> None:
    """In a child: no file may grow beyond `limit` bytes."""
    without, _ = epochs(manifest)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    got, counts = epochs(manifest, cache_mode=mode, cache_dir=folder)
    assert torch.equal(got, without)
    assert counts["cache"]["errors"] > 0
    try:
        epochs(manifest, cache_mode=mode, cache_dir=folder, cache_options={"strict": True})
    except CacheError:
        return
    raise AssertionError("a strict cache must not hide a full disk")


@pytest.mark.parametrize("limit", [0, 500])
@pytest.mark.parametrize("mode", WAYS)
def test_a_full_disk(mode: str, limit: int, manifest: dp.Manifest, tmp_path: Path) -> None:
    child = start(on_a_full_disk, manifest, mode, tmp_path, limit)
    child.join(60)
    assert child.exitcode == 0


class ReadOnly:
    """A file system that refuses every change."""

    def __call__(self, name: str, call: Callable[[], Any], args: Any, more: Any) -> Any:
        changes = name in ("write", "pwrite", "ftruncate", "rename", "link", "unlink", "mkdir", "rmdir", "utime")
        if changes or (name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return call()


@pytest.mark.parametrize("state", ["cold", "half", "warm"])
@pytest.mark.parametrize("mode", WAYS)
def test_a_read_only_folder(
    mode: str, state: str, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    options: dict[str, Any] = {"cache_mode": mode, "cache_dir": tmp_path / "cache"}
    filled = {"cold": 0, "half": 7, "warm": 14}[state]
    if filled:
        epochs(manifest.subset(range(filled)), **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(dali_pipes.cache.files, "os", Os(ReadOnly()))
        got, counts = epochs(manifest, **options)
        assert torch.equal(got, expected)
        if filled < 14:
            assert counts["cache"]["errors"] > 0
            warned_once(caplog)
            with pytest.raises(CacheError):
                epochs(manifest, **options, cache_options={"strict": True})
        else:
            assert counts["decoded"] == 0
    got, counts = epochs(manifest, **options, cache_options={"read_only": True})
    assert torch.equal(got, expected)
    assert counts["cache"]["errors"] == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["a file", "below a file", "nowhere"])
@pytest.mark.parametrize("mode", WAYS)
def test_a_folder_that_cannot_be(
    mode: str, place: str, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("precious")
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "cache", "nowhere": Path("/proc/no")}
    options: dict[str, Any] = {"cache_mode": mode, "cache_dir": folder[place]}
    got, counts = epochs(manifest, **options)
    assert torch.equal(got, expected)
    assert counts["cache"]["errors"] > 0
    warned_once(caplog)
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(CacheError):
        epochs(manifest, **options, cache_options={"strict": True})


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("with_a_file", [False, True], ids=["gone", "a file instead"])
def test_a_folder_that_goes_midway(
    mode: str, with_a_file: bool, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def remove() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        if with_a_file and not (tmp_path / "cache").exists():
            (tmp_path / "cache").write_text("")

    for moment in ("between", "midway"):
        got, _ = epochs(manifest, cache_mode=mode, cache_dir=tmp_path / "cache", **{moment: remove})
        assert torch.equal(got, expected)
        warned_once(caplog, at_least=0)
        caplog.clear()
        remove()
        if with_a_file:
            (tmp_path / "cache").unlink()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", WAYS)
def test_damage_in_every_file(
    mode: str, seed: int, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    options: dict[str, Any] = {"cache_mode": mode, "cache_dir": tmp_path}
    epochs(manifest, **options)
    assert flip(tmp_path, seed) > 3
    got, counts = epochs(manifest, **options)
    assert torch.equal(got, expected)
    assert counts["decoded"] > 0
    if mode != "pinned":  # whose damaged journals show no entry at all
        assert counts["cache"]["corrupt"] > 0
        warned_once(caplog)
    got, counts = epochs(manifest, **options, cache_options={"strict": True})
    assert torch.equal(got, expected)
    assert counts["decoded"] == 0, "what was damaged has been made again"
    assert upkeep.verify(tmp_path, repair=True)["orphans"] <= 1, "the folder is known as a cache"
    assert upkeep.verify(tmp_path)["orphans"] == 0


@pytest.mark.parametrize("mode", WAYS)
def test_damage_raises_when_strict(mode: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache_mode": mode, "cache_dir": tmp_path}
    epochs(manifest, **options)
    data = tmp_path / ("npy" if mode == "tiered" else mode)
    for path in data.rglob("*"):
        if path.suffix in (".png", ".npy", ".pt", ".dat"):
            content = bytearray(path.read_bytes())
            for at in range(len(content) // 20 if mode != "pinned" else 4100, len(content), 50):
                content[at] ^= 0x55
            path.write_bytes(content)
    with pytest.raises(cache.IntegrityError, match="not what was put"):
        epochs(manifest, **options, cache_options={"strict": True}, on_error="skip")


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
@pytest.mark.parametrize("mode", ["pinned", "npy", "tiered"])
def test_no_secret(
    mode: str, manifest: dp.Manifest, expected: torch.Tensor, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without a secret no name in a folder would be hidden: the cache stays off."""
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/no")
    options: dict[str, Any] = {"cache_mode": mode, "cache_dir": tmp_path}
    with pytest.warns(dp.DaliPipesWarning, match="DALI_PIPES_CACHE_SECRET") as said:
        got, counts = epochs(manifest, **options)
    assert len(said) == 1
    assert torch.equal(got, expected)
    assert counts["decoded"] == 28
    with open_store(mode, tmp_path) as store:
        assert store.keys() == []
    with dp.ImageDataset(manifest, RECIPE, **options) as dataset:
        assert torch.equal(dataset[0][0], dp.ImageDataset(manifest, RECIPE)[0][0])
    with dp.CachedDataset([1, 2, 3], version=1, **options) as items:
        assert [items[0], items[1], items[2]] == [1, 2, 3]
    with pytest.raises(SecretError, match="make that folder writable"):
        epochs(manifest, **options, cache_options={"strict": True})


def test_fast_parity_keeps_its_pixels_when_the_cache_is_off(
    manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dp.Recipe(size=(16, 20), parity="fast")
    options: dict[str, Any] = {"cache_mode": "npy", "cache_dir": tmp_path}
    cached, _ = epochs(manifest, recipe, **options)
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/no")
    with pytest.warns(dp.DaliPipesWarning, match="going on without the cache"):
        assert torch.equal(epochs(manifest, recipe, **options)[0], cached)
