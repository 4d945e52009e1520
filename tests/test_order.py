"""Orders: what each promises, that they are pure functions of seed and epoch, and that runs resume in them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import manifest_of, pictures
from hypothesis import given
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes.loader.bins import deal, fill
from dali_pipes.loader.order import Order, Ordering, Plain
from dali_pipes.loader.standing import Standing
from dali_pipes.manifest.columns import TextColumn

LABELS = [0] * 30 + [1] * 6 + [2] * 3 + [3]
GROUPS = ["a"] * 7 + ["b"] * 5 + ["c"] * 5 + ["d"] * 3 + ["e"] * 3 + [""] * 17


def table(folder: Path, **columns: Any) -> dp.Manifest:
    names = [f"{i}.png" for i in range(len(next(iter(columns.values()))))]
    rows = zip(names, *columns.values())
    text = "\n".join([",".join(["path", *columns]), *(",".join(map(str, row)) for row in rows)])
    (folder / "all.csv").write_text(text + "\n")
    return dp.Manifest.from_csv(folder / "all.csv")


@pytest.fixture
def manifest(tmp_path: Path) -> dp.Manifest:
    weights = [1.0] * 20 + [0.0] * 19 + [20.0]
    return table(tmp_path, label=LABELS, group=GROUPS, weight=weights)


TOGETHER = dp.Grouped(together=True)
ORDERS = (dp.Weighted("weight"), dp.Balanced(count=100), dp.ClassesAndSamples(2, 3), dp.Grouped(), TOGETHER)


@pytest.mark.parametrize("order", [*ORDERS, Plain(), Plain(True)], ids=str)
def test_pure_functions_of_seed_and_epoch_of_one_length(manifest: dp.Manifest, order: Order) -> None:
    size = 6 if isinstance(order, dp.ClassesAndSamples) else 8
    for ranks in (1, 2, 3):
        one = order.samples(manifest, 1, 0, ranks, size)
        assert np.array_equal(one, order.samples(manifest, 1, 0, ranks, size))
        others = [order.samples(manifest, *numbers, ranks, size) for numbers in ((1, 1), (2, 0))]
        for other in others:
            assert len(other) == len(one)
            assert np.array_equal(one, other) == (order == Plain())
        assert one.min() >= 0
        assert one.max() < len(manifest)


def test_weights_are_frequencies(manifest: dp.Manifest) -> None:
    drawn = dp.Weighted("weight", count=20_000).samples(manifest, 0, 0, 1, 1)
    counts = np.bincount(drawn, minlength=40) / 20_000
    assert counts[39] == pytest.approx(0.5, abs=0.02)
    assert not counts[20:39].any()
    assert counts[:20] == pytest.approx(1 / 40, abs=0.005)
    given_each = dp.Weighted(weights=tuple([0.0] * 39 + [3.0])).samples(manifest, 0, 0, 1, 1)
    assert given_each.tolist() == [39] * 40


def test_balanced_classes_come_equally_often(manifest: dp.Manifest) -> None:
    drawn = dp.Balanced(count=8000).samples(manifest, 0, 0, 1, 1)
    assert np.bincount(manifest.labels[drawn]) / 8000 == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_of_classes_and_samples(manifest: dp.Manifest, ranks: int) -> None:
    order = dp.ClassesAndSamples(3, 2).samples(manifest, 3, 1, ranks, 6)
    assert len(order) == 40 // (6 * ranks) * 6 * ranks
    for rank in range(ranks):
        for batch in order[rank::ranks].reshape(-1, 3, 2):
            classes = manifest.labels[batch]
            assert (classes == classes[:, :1]).all()
            assert len(set(classes[:, 0].tolist())) == 3
            for number, pair in zip(classes[:, 0].tolist(), batch.tolist()):
                assert (pair[0] == pair[1]) == (number == 3)  # which has one sample
    taken = order[manifest.labels[order] == 0]
    assert len(set(taken.tolist())) == len(taken)  # nothing twice before all of the class were taken


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_a_batch_repeats_a_sample_of_small_classes_only(seed: int, classes: int, each: int, ranks: int) -> None:
    """Also where a class's round of samples ends within a batch; and every round holds each of them."""
    sizes = np.random.default_rng(seed).integers(1, 9, 4)
    labels = np.repeat(np.arange(4), sizes)
    count = len(labels)
    names = TextColumn(map(str, range(count)))
    blank = TextColumn.blank(count)
    manifest = dp.Manifest(Path(), names, names, np.zeros(count, np.int32), labels, blank, blank)
    order = dp.ClassesAndSamples(classes, each).samples(manifest, seed, 1, ranks, classes * each)
    for rank in range(ranks):
        for batch in order[rank::ranks].reshape(-1, each):
            size = sizes[labels[batch[0]]]
            assert (labels[batch] == labels[batch[0]]).all()
            assert len(set(batch.tolist())) == min(each, size) or each > size
    taken = np.concatenate([order, np.arange(count)])
    if order.size:
        times = np.bincount(taken, minlength=count)
        for number, size in enumerate(sizes.tolist()):
            if size >= each:
                assert np.ptp(times[labels == number]) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_what_fills_up_is_not_valid(manifest: dp.Manifest, tmp_path: Path, together: bool, ranks: int) -> None:
    """Over all ranks each sample is valid once."""
    files = pictures(7)
    manifest_of(tmp_path, files)
    rows = [f"{name},{i % 2},p{i // 3}" for i, name in enumerate(files)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    grouped = dp.Manifest.from_csv(tmp_path / "all.csv")
    seen: list[int] = []
    repeated = 0
    for rank in range(ranks):
        given: dict[str, Any] = {"order": dp.Grouped(together), "rank": rank, "world_size": ranks, "batch_size": 4}
        with dp.Loader(grouped, dp.Recipe(8), distributed=False, backend="torch", **given) as loader:
            for batch in loader:
                seen += batch.index[batch.valid].tolist()
                repeated += int((~batch.valid).sum())
    assert sorted(seen) == list(range(7))
    assert repeated == len(dp.Grouped(together).samples(grouped, 0, 0, ranks, 4)) - 7


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_group_stays_on_one_rank(manifest: dp.Manifest, ranks: int) -> None:
    order = dp.Grouped().samples(manifest, 3, 1, ranks, 4)
    assert len(order) % ranks == 0
    assert len(order) <= 40 + ranks
    homes: dict[str, int] = {}
    for place, sample in enumerate(order.tolist()):
        group = manifest.groups[sample]
        if group:
            assert homes.setdefault(group, place % ranks) == place % ranks
    assert set(order.tolist()) == set(range(40))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_group_stays_in_one_batch(manifest: dp.Manifest, ranks: int) -> None:
    order = dp.Grouped(together=True).samples(manifest, 3, 1, ranks, 8)
    assert set(order.tolist()) == set(range(40))
    assert len(order) == -(-5 // ranks) * ranks * 8
    for rank in range(ranks):
        for batch in order[rank::ranks].reshape(-1, 8).tolist():
            for name in {manifest.groups[sample] for sample in batch} - {""}:
                members = [i for i in range(40) if manifest.groups[i] == name]
                assert set(members) <= set(batch)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 99))
def test_whole_groups_fill_bins_whatever_their_order(sizes: list[int], bins: int, seed: int) -> None:
    starts = np.cumsum([0, *sizes])
    groups = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    for form in ({"bins": bins}, {"size": max(sizes) + bins - 1}):
        one, other = fill(groups, **form), fill(shuffled, **form)
        assert one.shape == other.shape
        assert set(one.ravel().tolist()) == set(range(starts[-1]))
        for group in groups:
            assert sum(group[0] in row for row in other.tolist()) >= 1
            assert all(set(group.tolist()) <= set(row) or not set(group.tolist()) & set(row) for row in other.tolist())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(9, 30))
def test_bins_are_filled_first_fit(sizes: list[int], size: int) -> None:
    """As by a search from the first bin for every group, which takes the square of their number."""
    groups = [np.full(count, i) for i, count in enumerate(sizes)]
    found: list[list[int]] = []
    for group in sorted(groups, key=len, reverse=True):
        room = [each for each in found if len(each) + len(group) <= size]
        if not room:
            found.append([])
        (room or found[-1:])[0].extend(group.tolist())
    assert np.array_equal(fill(groups, size=size), [np.resize(each, size) for each in found])


def test_dealt_bins_are_the_batches_of_ranks() -> None:
    bins = np.arange(24).reshape(6, 4)
    places = deal(bins, 2)
    for rank in range(2):
        assert np.array_equal(places[rank::2].reshape(-1, 4), bins[rank::2])
    by_rank = deal(bins[:2], 2, by_rank=True)
    assert np.array_equal(by_rank[0::2], bins[0])


def test_what_cannot_be_ordered_is_refused(manifest: dp.Manifest, tmp_path: Path) -> None:
    for order, words in (
        (dp.Weighted(weights="age"), r"no such column; it has .*'weight'"),
        (dp.Weighted(weights="group"), "no such column"),
        (dp.Weighted(weights=(1.0, 2.0)), "give 40 finite weights"),
        (dp.Weighted(weights=(-1.0,) * 40), "none below 0"),
        (dp.Weighted(weights=(0.0,) * 40), "no sample has a weight above 0"),
        (dp.ClassesAndSamples(5, 2), "there are 4 classes"),
        (dp.ClassesAndSamples(2, 2), "the batch size is 6 and must be their product"),
        (dp.Grouped(together=True), "a group has 7 samples, a batch 6"),
        (dp.Weighted(weights=(float("nan"),) * 40), "give 40 finite weights"),
    ):
        with pytest.raises(dp.ConfigError, match=words):
            order.samples(manifest, 0, 0, 1, 6)
    for count in (0, 2.5, True):
        with pytest.raises(dp.ConfigError, match="give a whole number of at least 1"):
            dp.Weighted(count=count)  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="give whole numbers"):
        dp.ClassesAndSamples(2.0, 3)  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match=r"classes decide its weights; Weighted takes others"):
        dp.Balanced("weight")
    with pytest.raises(dp.ConfigError, match="Balanced: no sample has a label"):
        dp.Balanced().samples(table(tmp_path, group=["a", "b"]), 0, 0, 1, 1)
    with pytest.raises(dp.ConfigError, match="or shuffle; orders are random by themselves"):
        Ordering(dp.Balanced(), True, manifest, 0)


@pytest.mark.parametrize("order", [dp.Balanced(), dp.ClassesAndSamples(2, 2), dp.Grouped(), TOGETHER], ids=str)
def test_runs_resume_after_every_batch(order: Order, tmp_path: Path) -> None:
    files = pictures(12)
    manifest_of(tmp_path, files)
    rows = [f"{name},{i % 3},p{i // 3}" for i, name in enumerate(files)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    given: dict[str, Any] = {"batch_size": 4, "order": order, "backend": "torch", "cache_mode": "memory"}
    with dp.Loader(manifest, dp.Recipe(8), **given) as whole:
        batches, states = [], []
        for batch in whole:
            batches.append(batch.index.tolist())
            states.append(whole.state_dict())
        assert len(batches) == len(whole) == (4 if order == TOGETHER else 3)
    for done, state in enumerate(states[:-1], 1):
        with dp.Loader(manifest, dp.Recipe(8), **given) as rest:
            rest.load_state_dict(state)
            assert [batch.index.tolist() for batch in rest] == batches[done:]
    given["order"] = dp.Weighted(weights=(1.0,) * 12)
    words = "belongs to another run"
    with dp.Loader(manifest, dp.Recipe(8), **given) as other, pytest.raises(dp.StateError, match=words):
        other.load_state_dict(states[0])


@pytest.mark.parametrize("order", [dp.Weighted("weight", count=23), dp.Balanced()], ids=str)
def test_other_ranks_go_on_in_orders_that_draw(order: Order, tmp_path: Path) -> None:
    """Two ranks stop after any step; one or three, with another batch size, take each remaining place once."""
    files = pictures(12)
    manifest_of(tmp_path, files)
    rows = [f"{name},{i % 3},{i}" for i, name in enumerate(files)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,weight", *rows]) + "\n")
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    given: dict[str, Any] = {"order": order, "backend": "torch", "cache_mode": "memory", "distributed": False}
    whole = order.samples(manifest, 0, 0, 1, 1).tolist()
    with dp.Loader(manifest, dp.Recipe(8), batch_size=2, rank=1, world_size=2, **given) as begun:
        states = [begun.state_dict() for _ in begun]
    for steps, state in enumerate(states[:-1], 1):
        for ranks, size in ((1, 5), (3, 1)):
            taken: list[list[int]] = []
            for rank in range(ranks):
                with dp.Loader(manifest, dp.Recipe(8), batch_size=size, rank=rank, world_size=ranks, **given) as rest:
                    rest.load_state_dict(state)
                    taken += [[i for batch in rest for i in batch.index[batch.valid].tolist()]]
            found = [i for each in itertools.zip_longest(*taken) for i in each if i is not None]
            assert found == whole[4 * steps :], (steps, ranks)


@pytest.mark.parametrize("order", [dp.Weighted("weight"), dp.Grouped(), TOGETHER], ids=str)
def test_a_state_of_other_weights_or_groups_is_refused(order: Order, tmp_path: Path) -> None:
    """A table whose weights or groups changed would go on in another order: samples twice, others never."""
    before = table(tmp_path, group=[i // 2 for i in range(12)], weight=range(12))
    columns, groups = {"weight": TextColumn(str(12 - i) for i in range(12))}, TextColumn(str(i % 6) for i in range(12))
    after = replace(before, columns=columns, groups=groups)
    saved, same, other = (Ordering(order, False, each, 0).belongs_to(1, 4) for each in (before, before, after))
    Standing().load(Standing().state(saved), same)
    with pytest.raises(dp.StateError, match=r"another run: order is '[0-9a-f]{16}', here '[0-9a-f]{16}'\.$"):
        Standing().load(Standing().state(saved), other)
