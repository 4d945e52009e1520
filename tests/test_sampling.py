"""Orders, shards and positions: permutations, equal shares, exact resumption, and the same in every later version."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.loader.sampling import EpochSampler, Shares, batches, epoch_order

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


def shares_of(count: int, world: int, size: int = 1, **options: bool) -> list[Shares]:
    return [Shares(count, rank, world, size, **options) for rank in range(world)]


def samples_of(shares: Shares, order: np.ndarray, position: int = 0) -> list[int]:
    return order[shares.places(position) % max(1, len(order))].tolist()


@given(counts, worlds)
def test_shares_are_of_one_size_and_cover_everything(count: int, world: int) -> None:
    order = epoch_order(count, seed=0, epoch=0, shuffle=True)
    taken = [samples_of(share, order) for share in shares_of(count, world)]
    assert {len(share) for share in taken} == {-(-count // world)}
    together = [i for share in taken for i in share]
    assert set(together) == set(range(count))
    assert len(together) - count < world
    assert not count or np.ptp(np.bincount(together, minlength=count)) <= 1  # repeats are spread evenly
    places = np.concatenate([share.places() for share in shares_of(count, world)])
    assert sorted(order[places[places < count]].tolist()) == list(range(count))  # those that are valid, once each


@given(counts, worlds)
def test_with_drop_last_shards_are_disjoint(count: int, world: int) -> None:
    order = epoch_order(count, seed=0, epoch=0, shuffle=True)
    taken = [samples_of(share, order) for share in shares_of(count, world, drop_last=True)]
    assert {len(share) for share in taken} == {count // world}
    together = [i for share in taken for i in share]
    assert len(set(together)) == len(together) > count - world or count < world


@given(counts, worlds)
def test_without_padding_every_sample_comes_once(count: int, world: int) -> None:
    taken = [samples_of(share, np.arange(count)) for share in shares_of(count, world, pad=False)]
    assert sorted(i for share in taken for i in share) == list(range(count))
    assert not count or np.ptp([len(share) for share in taken]) <= 1


def test_ranks_take_turns() -> None:
    assert [samples_of(share, np.arange(7)) for share in shares_of(7, 2)] == [[0, 2, 4, 6], [1, 3, 5, 0]]
    assert samples_of(Shares(7, 1, 2, 1, drop_last=True), np.arange(7)) == [1, 3, 5]


@given(counts, worlds, st.integers(1, 20), st.booleans(), st.booleans(), st.integers(0, 100))
def test_lengths_agree_with_what_is_taken(
    count: int, world: int, size: int, drop_last: bool, pad: bool, position: int
) -> None:
    for share in shares_of(count, world, size, drop_last=drop_last, pad=pad):
        places = share.places(position)
        assert len(places) == share.size(position)
        assert len(batches(places, batch_size=size, drop_last=drop_last)) == share.steps(position)


@given(counts, st.integers(1, 20), st.booleans())
def test_batches_are_the_samples_in_order(count: int, size: int, drop_last: bool) -> None:
    plan = batches(np.arange(count), batch_size=size, drop_last=drop_last)
    assert all(len(batch) == size for batch in plan[:-1])
    flat = [i for batch in plan for i in batch.tolist()]
    assert flat == list(range(count // size * size if drop_last else count))
    assert all(len(batch) > 0 for batch in plan)


phases = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 6)), min_size=1, max_size=5)


@given(counts, phases, st.booleans())
def test_any_ranks_and_batch_sizes_take_each_sample_once(
    count: int, phases: list[tuple[int, int, int]], pad: bool
) -> None:
    """Each phase is a run of some ranks and a batch size that stops after some steps; a last one finishes the epoch."""
    order = epoch_order(count, seed=3, epoch=1, shuffle=True)
    position, seen = 0, []
    for world, size, steps in [*phases, (2, 3, count)]:
        for share in shares_of(count, world, size, pad=pad):
            for places in batches(share.places(position), batch_size=size, drop_last=False)[:steps]:
                seen += order[places[places < count]].tolist()
        position = Shares(count, 0, world, size).after(position, steps)
    assert position == count
    assert sorted(seen) == list(range(count))


def test_a_sampler_says_which_samples_come_and_takes_the_epoch() -> None:
    told: list[int] = []
    sampler = EpochSampler(told.append, lambda: np.array([4, 2]))
    sampler.set_epoch(3)
    assert (told, list(sampler), len(sampler)) == ([3], [4, 2], 2)
