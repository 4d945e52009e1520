"""10, on the whole path: a DataLoader's workers, however started, give the same items, and one that dies harms none."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import dali_pipes as dp
import dali_pipes.fetch.fetcher
from dali_pipes.cache import open_store, upkeep
from tests.faults.conftest import LOST, lose_a_worker
from tests.faults.pictures import RECIPE, context_of, make_set, right_or_nothing, start, truth

FILES = 24


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """24 tiny files, a few of them DICOM."""
    return make_set(tmp_path_factory.mktemp("images"), FILES)


def die_at(decodes: int, mark: Path, _worker: int) -> None:
    """In a worker, as it starts: it will be killed while it decodes its so-and-so-many-th file, unless another was."""
    real, count = dali_pipes.fetch.fetcher.decode, [0]

    def fatal(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == decodes:
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    dali_pipes.fetch.fetcher.decode = fatal


def items(dataset: dp.ImageDataset, way: str, **more: Any) -> torch.Tensor:
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "multiprocessing_context": context_of(way)}
    return torch.cat([image for image, _, _ in torch.utils.data.DataLoader(dataset, **options, **more)])


def alone(manifest: dp.Manifest, epoch: int) -> torch.Tensor:
    with dp.ImageDataset(manifest, RECIPE, seed=2) as dataset:
        dataset.set_epoch(epoch)
        return torch.stack([dataset[number][0] for number in range(FILES)])


def warm(manifest: dp.Manifest, mode: str, way: str, directory: Path, decodes: int, mark: Path) -> None:
    """In a process of its own, which loses a worker."""
    dataset = dp.ImageDataset(manifest, RECIPE, cache_mode=mode, cache_dir=directory, cache_options={"strict": True})
    lose_a_worker(lambda: items(dataset, way, worker_init_fn=functools.partial(die_at, decodes, mark)))


def deaths(manifest: dp.Manifest, mode: str, way: str, folder: Path, rounds: int) -> None:
    images = truth(manifest, RECIPE)
    for turn in range(rounds):
        directory, mark = folder / f"cache{turn}", folder / f"mark{turn}"
        child = start(warm, manifest, mode, way, directory, 1 + 5 * turn % 11, mark, daemon=False)
        child.join(120)
        assert child.exitcode == LOST
        assert mark.exists()
        with open_store(mode, directory, strict=True, read_only=True, verify="always") as store:
            assert right_or_nothing(store, images) < FILES
        options: dict[str, Any] = {"cache_mode": mode, "cache_dir": directory, "cache_options": {"strict": True}}
        with dp.ImageDataset(manifest, RECIPE, seed=2, **options) as dataset:
            dataset.set_epoch(turn)
            assert torch.equal(items(dataset, way), alone(manifest, turn))
        with open_store(mode, directory, strict=True, verify="always") as store:
            assert right_or_nothing(store, images) == FILES
        found = upkeep.verify(directory)
        assert (found["entries"], found["corrupt"], found["orphans"], found["errors"]) == (FILES, 0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "way", "rounds"), [("pinned", "fork", 3), ("npy", "fork", 1), ("pinned", "forkserver", 1)]
)
def test_a_worker_is_killed_while_it_decodes(
    mode: str, way: str, rounds: int, manifest: dp.Manifest, tmp_path: Path
) -> None:
    deaths(manifest, mode, way, tmp_path, rounds)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_workers_are_killed_at_length(way: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    deaths(manifest, "pinned", way, tmp_path, 50)


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_every_way_to_start_gives_the_same_items(way: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    context = context_of(way)
    with dp.ImageDataset(manifest, RECIPE, cache_mode="pinned", cache_dir=tmp_path, seed=2) as dataset:
        loader: Any = torch.utils.data.DataLoader(
            dataset, batch_size=4, num_workers=2, multiprocessing_context=context, persistent_workers=True
        )
        for epoch in range(3):
            dataset.set_epoch(epoch)
            assert torch.equal(torch.cat([image for image, _, _ in loader]), alone(manifest, epoch))
        del loader
        assert dataset.stats()["cache"]["entries"] == FILES
