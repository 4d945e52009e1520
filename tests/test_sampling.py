"""Orders, shards and positions: permutations, equal shares, exact resumption, and the same in every later version."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.errors import ConfigError
from dali_pipes.sampling import batches, epoch_order, shard

counts = st.integers(0, 200)
worlds = st.integers(1, 9)


@given(counts, st.integers(), st.integers(0, 1000))
def test_a_shuffle_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch, shuffle=True)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_orders_never_change() -> None:
    """Pinned: a run that is resumed after an upgrade must see the rest of its epoch, not another one."""
    assert epoch_order(12, seed=0, epoch=0, shuffle=True).tolist() == [2, 1, 3, 11, 7, 0, 10, 4, 8, 5, 9, 6]
    assert epoch_order(12, seed=5, epoch=3, shuffle=True).tolist() == [8, 10, 6, 11, 9, 4, 0, 3, 2, 7, 1, 5]


@given(counts, st.integers(), st.integers())
def test_without_shuffle_the_manifests_order(count: int, seed: int, epoch: int) -> None:
    assert epoch_order(count, seed=seed, epoch=epoch, shuffle=False).tolist() == list(range(count))


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = {
        tuple(epoch_order(50, seed=seed, epoch=epoch, shuffle=True).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_every_place_is_as_likely_for_every_sample() -> None:
    seen = np.zeros((6, 6))
    for epoch in range(1200):
        seen[np.arange(6), epoch_order(6, seed=1, epoch=epoch, shuffle=True)] += 1
    assert abs(seen - 200).max() < 60  # standard deviation 12.9


@given(counts, worlds)
def test_shards_are_equal_and_cover_everything(count: int, world: int) -> None:
    order = epoch_order(count, seed=0, epoch=0, shuffle=True)
    shares = [shard(order, rank=rank, world_size=world, drop_last=False) for rank in range(world)]
    assert {len(share) for share in shares} == {-(-count // world)}
    together = [i for share in shares for i in share.tolist()]
    assert set(together) == set(range(count))
    assert len(together) - count < world
    assert not count or np.ptp(np.bincount(together, minlength=count)) <= 1  # repeats are spread evenly


@given(counts, worlds)
def test_with_drop_last_shards_are_disjoint(count: int, world: int) -> None:
    order = epoch_order(count, seed=0, epoch=0, shuffle=True)
    shares = [shard(order, rank=rank, world_size=world, drop_last=True) for rank in range(world)]
    assert {len(share) for share in shares} == {count // world}
    together = [i for share in shares for i in share.tolist()]
    assert len(set(together)) == len(together) > count - world or count < world


def test_ranks_take_turns() -> None:
    order = np.arange(7)
    assert shard(order, rank=0, world_size=2, drop_last=False).tolist() == [0, 2, 4, 6]
    assert shard(order, rank=1, world_size=2, drop_last=False).tolist() == [1, 3, 5, 0]
    assert shard(order, rank=1, world_size=2, drop_last=True).tolist() == [1, 3, 5]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (0, -1)])
def test_a_rank_outside_the_world_is_refused(rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match=r"rank must lie in 0\.\.world_size-1"):
        shard(np.arange(4), rank=rank, world_size=world, drop_last=False)


@given(counts, st.integers(1, 20), st.booleans())
def test_batches_are_the_samples_in_order(count: int, size: int, drop_last: bool) -> None:
    plan = batches(np.arange(count), position=0, batch_size=size, drop_last=drop_last)
    assert all(len(batch) == size for batch in plan[:-1])
    flat = [i for batch in plan for i in batch.tolist()]
    assert flat == list(range(count // size * size if drop_last else count))
    assert all(len(batch) > 0 for batch in plan)


@given(counts, st.integers(1, 20), st.integers(1, 20), st.integers(0, 30))
def test_what_remains_does_not_depend_on_the_batch_size(count: int, before: int, after: int, steps: int) -> None:
    samples = epoch_order(count, seed=2, epoch=2, shuffle=True)
    done = [
        i for batch in batches(samples, position=0, batch_size=before, drop_last=False)[:steps] for i in batch.tolist()
    ]
    rest = batches(samples, position=len(done), batch_size=after, drop_last=False)
    assert done + [i for batch in rest for i in batch.tolist()] == samples.tolist()
