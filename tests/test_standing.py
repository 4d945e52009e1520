"""Epochs that follow each other by themselves, and states that any number of ranks can go on from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import torch
from archives import coded, indices, manifest_of

import dali_pipes as dp

COUNT = 23
RECIPE = dp.Recipe(size=4, window=None)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.img": coded(i % 21) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files)


def loader_of(manifest: dp.Manifest, **options: Any) -> dp.Loader:
    given = {"recipe": RECIPE, "batch_size": 2, "backend": "torch", "num_workers": 1, "cache_mode": "memory",
             "shuffle": True, "seed": 3, **options}  # fmt: skip
    return dp.Loader(manifest, **given)


def test_every_iteration_is_the_next_epoch(manifest: dp.Manifest) -> None:
    with loader_of(manifest) as loader, loader_of(manifest) as other:
        orders = [indices(loader) for _ in range(3)]
        for epoch in (2, 0, 1):
            other.set_epoch(epoch)
            assert indices(other) == orders[epoch]
        assert indices(other) == orders[2], "and goes on from there"
    assert len({tuple(order) for order in orders}) == 3


def test_an_iteration_that_was_broken_off_is_followed_by_the_next_epoch_too(manifest: dp.Manifest) -> None:
    """Loops with a fixed number of steps an epoch would see the same samples again and again."""
    with loader_of(manifest) as loader:
        whole = [indices(loader) for _ in range(3)]
    with loader_of(manifest) as loader:
        firsts = []
        for _ in range(3):
            for batch in loader:
                firsts.append(batch.index.tolist())
                break
        assert firsts == [order[:2] for order in whole]


def test_looking_at_it_changes_nothing(manifest: dp.Manifest) -> None:
    with loader_of(manifest) as loader:
        iter(loader)
        coming = list(loader.sampler)
        assert len(loader.sampler) == COUNT
        assert indices(loader) == coming
        assert indices(loader) == list(loader.sampler) or list(loader.sampler) != coming


def test_a_samplers_epoch_is_the_loaders(manifest: dp.Manifest) -> None:
    """Lightning looks for `.sampler.set_epoch`, and finds nothing to call otherwise."""
    with loader_of(manifest) as loader:
        loader.sampler.set_epoch(5)
        assert loader.state_dict()["epoch"] == 5
        fifth = indices(loader)
        loader.sampler.set_epoch(5)
        assert indices(loader) == fifth


def test_an_epoch_that_is_set_while_an_iteration_runs_is_the_next(manifest: dp.Manifest) -> None:
    with loader_of(manifest) as loader:
        orders = [indices(loader) for _ in range(5)]
        loader.set_epoch(0)
        for batch in loader:
            last = batch.index.tolist()
            loader.set_epoch(4)
        assert last == orders[0][-1:]
        assert indices(loader) == orders[4]


def consume(loaders: list[dp.Loader], steps: int | None) -> list[int]:
    """The samples that are no repetitions of the next `steps` steps of all ranks together."""
    seen = []
    for loader in loaders:
        for step, batch in enumerate(loader, 1):
            seen += batch.index[batch.valid].tolist()
            if step == steps:
                break
    return seen


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_two_three_and_one_rank_take_each_sample_once_whenever_they_change(
    manifest: dp.Manifest, backend: str, pad: bool
) -> None:
    """A run of two ranks stops at every step; three ranks with larger batches go on and stop; one finishes."""
    twos = [loader_of(manifest, rank=rank, world_size=2, batch_size=2, pad=pad) for rank in range(2)]
    threes = [loader_of(manifest, rank=rank, world_size=3, batch_size=1, pad=pad) for rank in range(3)]
    alone = loader_of(manifest, batch_size=5, backend=backend)
    for first in range(1, 6):
        for second in range(1, 3):
            for loader in twos:
                loader.set_epoch(1)
            seen = consume(twos, first)
            states = [json.loads(json.dumps(loader.state_dict())) for loader in twos]
            assert states[0] == states[1], "whoever saves it saves it for all"
            for loader in threes:
                loader.load_state_dict(states[0])
            seen += consume(threes, second)
            states = [loader.state_dict() for loader in threes]
            assert all(state == states[0] for state in states)
            if states[0]["position"] < COUNT:
                alone.load_state_dict(states[0])
                seen += consume([alone], None)
            assert sorted(seen) == list(range(COUNT)), (first, second)
    for loader in (*twos, *threes, alone):
        loader.close()


def test_an_uneven_share_without_padding_is_evaluated_once(manifest: dp.Manifest) -> None:
    loaders = [loader_of(manifest, rank=rank, world_size=4, batch_size=2, pad=False) for rank in range(4)]
    taken = [list(loader) for loader in loaders]
    assert [len(batches) for batches in taken] == [len(loader) for loader in loaders]
    assert sorted(indices([batch for batches in taken for batch in batches])) == list(range(COUNT))
    assert all(batch.valid.all() for batches in taken for batch in batches)


def test_a_state_does_not_hash_the_manifest_again(manifest: dp.Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    blake2b = hashlib.blake2b
    monkeypatch.setattr(
        "dali_pipes.manifest.manifest.hashlib.blake2b", lambda *a, **k: hashed.append(1) or blake2b(*a, **k)
    )
    fresh = manifest.subset(range(COUNT))
    with loader_of(fresh, shuffle=False) as loader:
        loader.state_dict()
        before = len(hashed)
        assert before
        for _ in range(5):
            loader.load_state_dict(loader.state_dict())
        assert len(hashed) == before


def mixed(batch: dp.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup, as torchvision does it: one weight for the batch, from PyTorch's generator."""
    weight = torch.rand(())
    image = batch.image.float()
    label = torch.nn.functional.one_hot(batch.label, COUNT).float()
    return weight * image + (1 - weight) * image.roll(1, 0), weight * label + (1 - weight) * label.roll(1, 0)


def test_a_batch_transform_repeats_itself_after_resuming(manifest: dp.Manifest) -> None:
    with loader_of(manifest, batch_transform=mixed) as loader, loader_of(manifest, batch_transform=mixed) as other:
        whole, states = [], []
        for pair in loader:
            whole.append(pair)
            states.append(loader.state_dict())
            torch.rand(3)  # the loop's own use of the generator
        for step in (0, 3):
            other.load_state_dict(states[step])
            again = list(other)
            assert len(again) == len(whole) - step - 1
            for (a, b), (c, d) in zip(again, whole[step + 1 :]):
                assert torch.equal(a, c)
                assert torch.equal(b, d)
        assert not torch.equal(next(iter(loader))[0], whole[0][0]), "another epoch, other numbers"


def test_no_two_batches_of_an_epoch_share_random_numbers(manifest: dp.Manifest) -> None:
    drawn = []
    for size, world in [(2, 2), (3, 2), (2, 5), (5, 3)]:
        for rank in range(world):
            with loader_of(
                manifest, batch_size=size, rank=rank, world_size=world, batch_transform=lambda _: torch.rand(()).item()
            ) as loader:
                drawn += [(size, world, number) for number in loader]
    assert len(set(drawn)) == len(drawn)


def test_a_batch_transform_leaves_the_loops_random_numbers_alone(manifest: dp.Manifest) -> None:
    with loader_of(manifest, batch_transform=mixed) as loader:
        torch.manual_seed(1)
        list(loader)
        after = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), after)


def test_a_batch_transform_may_give_anything(manifest: dp.Manifest) -> None:
    with loader_of(manifest, batch_transform=lambda batch: {"x": batch.image, "y": batch.label}) as loader:
        assert next(iter(loader)).keys() == {"x", "y"}
    with loader_of(manifest, batch_transform=lambda batch: batch.to(torch.bfloat16)) as loader:
        assert next(iter(loader)).image.dtype == torch.bfloat16
