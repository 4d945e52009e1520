"""Epochs of a map-style data set under PyTorch's DataLoader, where nobody sets them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import manifest_of, noise
from make_images import jpeg
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler

import dali_pipes as dp
from dali_pipes.loader.epoch_clock import EpochClock

COUNT = 12
RECIPE = dp.Recipe(size=8, augment=dp.Augment(horizontal_flip=0.5, rotation=40.0))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.jpg": jpeg(noise(i, 12, 12)) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files)


@pytest.fixture
def dataset(manifest: dp.Manifest) -> Iterator[dp.ImageDataset]:
    with dp.ImageDataset(manifest, RECIPE, seed=2) as made:
        yield made


@pytest.fixture(scope="module")
def expected(manifest: dp.Manifest) -> list[dict[int, torch.Tensor]]:
    """By epoch and sample, from a data set that is told its epochs and has no workers."""
    with dp.ImageDataset(manifest, RECIPE, seed=2) as dataset:
        epochs = []
        for epoch in range(6):
            dataset.set_epoch(epoch)
            epochs.append({i: dataset[i][0] for i in range(COUNT)})
    return epochs


def taken(loader: Any) -> dict[int, torch.Tensor]:
    return {int(i): image for images, _, rows in loader for image, i in zip(images, rows["index"])}


def alike(found: dict[int, torch.Tensor], epoch: dict[int, torch.Tensor]) -> bool:
    return bool(found) and all(torch.equal(image, epoch[i]) for i, image in found.items())


WORKERS = {
    "none": {},
    "anew": {"num_workers": 2, "multiprocessing_context": "fork"},
    "living on": {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"},
}


@pytest.mark.parametrize("workers", WORKERS)
def test_every_iteration_is_the_next_epoch(dataset: dp.ImageDataset, expected: Any, workers: str) -> None:
    loader = DataLoader(dataset, batch_size=3, shuffle=True, **WORKERS[workers])
    assert not alike(expected[0], expected[1])
    for epoch in range(3):
        assert alike(taken(loader), expected[epoch])
    dataset.set_epoch(1)
    assert alike(taken(loader), expected[1])
    assert alike(taken(loader), expected[2]), "and goes on from there"


@pytest.mark.parametrize("workers", WORKERS)
def test_seeding_pytorch_alike_before_each_epoch_makes_no_epochs_alike(
    dataset: dp.ImageDataset, expected: Any, workers: str
) -> None:
    loader = DataLoader(dataset, batch_size=3, shuffle=True, **WORKERS[workers])
    for epoch in range(2):
        torch.manual_seed(0)
        assert alike(taken(loader), expected[epoch])


WRAPPED: dict[str, Callable[[dp.ImageDataset], Any]] = {
    "subset": lambda dataset: DataLoader(Subset(dataset, [4, 2, 7]), batch_size=2),
    "weighted": lambda dataset: DataLoader(dataset, 4, sampler=WeightedRandomSampler([1.0] * COUNT, 30)),
    "batches of one's own": lambda dataset: DataLoader(dataset, batch_sampler=[[3, 5], [1]]),
    "one by one": lambda dataset: (
        (image[None], 0, {"index": [row["index"]]}) for image, _, row in DataLoader(dataset, batch_size=None)
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_whatever_the_sampler(dataset: dp.ImageDataset, expected: Any, how: str) -> None:
    loader = WRAPPED[how](dataset)
    assert alike(taken(loader), expected[0])
    loader = WRAPPED[how](dataset)
    assert alike(taken(loader), expected[1])


def test_two_loaders_side_by_side_keep_their_epochs(dataset: dp.ImageDataset, expected: Any) -> None:
    left, right = DataLoader(dataset, batch_size=2), DataLoader(dataset, batch_size=2)
    pairs = list(zip(left, right))
    assert alike(taken([pair[0] for pair in pairs]), expected[0])
    assert alike(taken([pair[1] for pair in pairs]), expected[1])


def test_items_outside_of_a_loader_advance_nothing(dataset: dp.ImageDataset, expected: Any) -> None:
    for _ in range(3):
        assert torch.equal(dataset[4][0], expected[0][4])
    assert alike(taken(DataLoader(dataset, batch_size=5)), expected[0])
    assert torch.equal(dataset[4][0], expected[0][4])


def test_what_is_set_while_an_iteration_runs_holds_for_the_items_to_come(
    dataset: dp.ImageDataset, expected: Any
) -> None:
    batches = iter(DataLoader(dataset, batch_size=6))
    assert alike(taken([next(batches)]), expected[0])
    dataset.set_epoch(4)
    assert alike(taken(batches), expected[4])


def test_a_pickled_copy_counts_for_itself(dataset: dp.ImageDataset, expected: Any) -> None:
    dataset.set_epoch(2)
    with pickle.loads(pickle.dumps(dataset)) as other:  # noqa: S301
        assert alike(taken(DataLoader(other, batch_size=5)), expected[2])
        assert alike(taken(DataLoader(other, batch_size=5)), expected[3])
    assert alike(taken(DataLoader(dataset, batch_size=5)), expected[2])


def test_the_state_is_the_epoch(dataset: dp.ImageDataset, expected: Any) -> None:
    list(DataLoader(dataset, batch_size=5))
    list(DataLoader(dataset, batch_size=5))
    state = dataset.state_dict()
    assert state == {"epoch": 1}
    dataset.load_state_dict(state)
    assert alike(taken(DataLoader(dataset, batch_size=5)), expected[1])


@pytest.mark.parametrize("epoch", [-1, 2**31])
def test_an_epoch_out_of_range_is_refused(epoch: int) -> None:
    with pytest.raises(dp.ConfigError, match=f"set_epoch.{epoch}"):
        EpochClock().set(epoch)


def jittered(image: torch.Tensor) -> torch.Tensor:
    return image.float() * torch.rand(()) + torch.rand(1)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_transform_draws_alike_for_any_number_of_workers(manifest: dp.Manifest, workers: str) -> None:
    with dp.ImageDataset(manifest, RECIPE, seed=2, transform=jittered) as dataset:
        alone = [{i: dataset[i][0] for i in range(COUNT)}]
        dataset.set_epoch(1)
        alone.append({i: dataset[i][0] for i in range(COUNT)})
        dataset.set_epoch(0)
        loader = DataLoader(dataset, batch_size=5, shuffle=True, **WORKERS[workers])
        assert alike(taken(loader), alone[0])
        assert alike(taken(loader), alone[1])
    assert not alike(alone[0], alone[1])


def test_a_transform_leaves_the_random_numbers_of_others_alone(manifest: dp.Manifest) -> None:
    with dp.ImageDataset(manifest, RECIPE, transform=jittered) as dataset:
        torch.manual_seed(3)
        dataset[1]
        after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), after)


def test_a_set_of_nothing_and_a_folder_without_a_mode_are_refused(manifest: dp.Manifest, tmp_path: Path) -> None:
    with pytest.raises(dp.ConfigError, match="no samples"):
        dp.ImageDataset(manifest.subset([]), RECIPE)
    with pytest.raises(dp.ConfigError, match=r"ImageDataset\(cache_dir=.* is \"none\". Give cache_mode one of"):
        dp.ImageDataset(manifest, RECIPE, cache_dir=tmp_path)
    with pytest.raises(dp.ConfigError, match=r"Loader\(cache_dir="):
        dp.Loader(manifest, RECIPE, batch_size=1, cache_dir=tmp_path)
    with pytest.raises(dp.ConfigError, match=r"CachedDataset\(cache_dir="):
        dp.CachedDataset([1], version=1, cache_mode="none", cache_dir=tmp_path)
    with pytest.raises(dp.ConfigError, match=r"Loader\(cache_dir=.* is \"memory\". Give cache_mode one of 'disk'"):
        dp.Loader(manifest, RECIPE, batch_size=1, cache_mode="memory", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_no_folder(manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for made in (dp.ImageDataset, lambda *a, **k: dp.Loader(*a, batch_size=2, **k)):
        with pytest.raises(dp.CacheError, match=r"s3://bucket/cache.*a folder of this machine"):
            made(manifest, RECIPE, cache_mode="npy", cache_dir="s3://bucket/cache")  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []
