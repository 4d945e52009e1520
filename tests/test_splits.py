"""Splits: leaks are found and named, and splits by group have none, with each label's share in each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.splits import assign, leaks, together


def manifest(groups: list[str], labels: list[int], splits: list[str] | None = None) -> dp.Manifest:
    count = len(groups)
    paths = TextColumn(f"{i}.jpg" for i in range(count))
    parts = TextColumn(splits) if splits else TextColumn.blank(count)
    return dp.Manifest(
        Path(), paths, paths, np.zeros(count, np.int32), np.array(labels, np.int64), parts, TextColumn(groups)
    )


def test_every_group_in_two_splits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest(["a", "a", "b", "b", "", "", "c"], [0] * 7, ["train", "val", "train", "train", "train", "val", ""])
    with pytest.raises(
        dp.ManifestError, match=r"1 groups or files lie in more than one split \(DALI_PIPES_SHOW"
    ) as bad:
        found.check_splits()
    assert bad.value.problems == {"a": "'train' (sample 0), 'val' (sample 1)"}
    assert "a group [" in str(bad.value)
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    with pytest.raises(dp.ManifestError, match=r"a group \[[0-9a-f]{8}\] a: 'train' \(sample 0\), 'val' \(sample 1\)"):
        found.check_splits()
    found.subset([0, 2, 3, 4, 5, 6]).check_splits()


def test_a_file_in_two_splits_is_named() -> None:
    found = manifest(["", ""], [0, 1], ["train", "test"]).subset([0, 1, 1])
    found.check_splits()
    twice = dp.Manifest.concat([found.subset([0]), manifest(["", ""], [0, 0], ["test", "test"]).subset([0])])
    with pytest.raises(dp.ManifestError, match="a file "):
        twice.check_splits()


FRACTIONS = {"train": 0.7, "val": 0.2, "test": 0.1}


@given(st.integers(0, 2**32), st.integers(0, 5))
def test_no_group_is_divided_and_the_order_of_samples_does_not_matter(case: int, seed: int) -> None:
    rng = np.random.default_rng(case)
    count = int(rng.integers(120, 300))
    groups = [f"p{group}" for group in rng.integers(0, rng.integers(20, 200), count)]
    found = manifest(groups, rng.integers(-1, 4, count).tolist()).split_by_group(FRACTIONS, seed)
    found.check_splits()
    assert not leaks(found.groups, found.splits)
    order = rng.permutation(count)
    again = found.subset(order).split_by_group(FRACTIONS, seed)
    assert list(again.splits) == [found.splits[int(i)] for i in order]


@given(st.integers(0, 2**32), st.integers(0, 5))
def test_no_file_is_divided_either(case: int, seed: int) -> None:
    """Files with samples of several groups, and of none, hold these together."""
    rng = np.random.default_rng(case)
    count = 200
    paths = TextColumn(f"{i}.dcm" for i in rng.integers(0, 120, count))
    ids = TextColumn(map(str, range(count)))
    groups = TextColumn(f"p{i}" if i < 90 else "" for i in rng.integers(0, 140, count))
    labels, frames = rng.integers(0, 2, count), np.arange(count, dtype=np.int32)
    made = dp.Manifest(Path(), paths, ids, frames, labels, TextColumn.blank(count), groups)
    keys = together(groups, paths)
    for column in (paths, groups):
        for name in set(column) - {""}:
            assert len({key for key, other in zip(keys, column) if other == name}) == 1
    if len(set(keys)) < 30:
        return
    try:
        found = made.split_by_group({"a": 0.6, "b": 0.4}, seed)
    except dp.ConfigError:  # nearly all hangs together
        return
    found.check_splits()
    order = rng.permutation(count)
    assert list(found.subset(order).split_by_group({"a": 0.6, "b": 0.4}, seed).splits) == list(
        found.subset(order).splits
    )


def test_groups_without_common_files_keep_their_keys() -> None:
    groups, paths = TextColumn(["a", "a", "", "b", ""]), TextColumn(["1", "2", "3", "4", "3"])
    assert list(together(groups, paths)) == ["ga", "ga", "f3", "gb", "f3"]
    assert list(together(groups, TextColumn(["1", "4", "3", "4", "3"]))) == ["ga", "ga", "f3", "ga", "f3"]


def test_shares_and_strata_are_met(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{i}" for i, size in enumerate(rng.integers(1, 9, 1500)) for _ in range(size)]
    labels = (rng.random(len(groups)) < 0.03).astype(int).tolist()
    found = manifest(groups, labels).split_by_group(FRACTIONS, seed=1)
    for name, share in FRACTIONS.items():
        part = found.split(name)
        for label, total in found.class_counts().items():
            assert abs(part.class_counts()[label] - share * total) <= 2, (name, label)
    other = manifest(groups, labels).split_by_group(FRACTIONS, seed=2)
    assert list(other.splits) != list(found.splits)


def test_single_samples_are_shared_out_exactly() -> None:
    found = manifest([""] * 1000, [i % 10 == 0 for i in range(1000)]).split_by_group({"a": 0.5, "b": 0.25, "c": 0.25})
    assert [found.split(name).class_counts() for name in "abc"] == [{0: 450, 1: 50}, {0: 225, 1: 25}, {0: 225, 1: 25}]


def test_frames_of_a_file_stay_together() -> None:
    paths = TextColumn(f"{i // 5}.dcm" for i in range(100))
    ids = TextColumn(map(str, range(100)))
    plain = (np.arange(100, dtype=np.int32) % 5, np.zeros(100, np.int64), TextColumn.blank(100), TextColumn.blank(100))
    found = dp.Manifest(Path(), paths, ids, *plain).split_by_group({"a": 0.5, "b": 0.5})
    found.check_splits()
    assert len(found.split("a")) == 50


@pytest.mark.parametrize(
    "wrong", [{}, {"a": 0.5}, {"a": 0.0, "b": 1.0}, {"a": 2, "b": -1}, {"": 1}, {"a": "x"}, [0.5, 0.5]]
)
def test_fractions_without_sense(wrong: object) -> None:
    with pytest.raises(dp.ConfigError, match="give a share above 0 for each split"):
        manifest(["a"], [0]).split_by_group(wrong)  # type: ignore[arg-type]


def test_too_few_groups() -> None:
    with pytest.raises(dp.ConfigError, match="nothing is left for 'val', 'test'; 9 samples in 1 groups are too few"):
        manifest(["a"] * 9, [0] * 9).split_by_group(FRACTIONS)


def test_nothing_is_assigned_of_nothing() -> None:
    assert assign(TextColumn([]), np.empty(0, np.int64), np.array([1.0]), 0).tolist() == []
    assert leaks(TextColumn([]), TextColumn([])) == {}


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "x", "y"]))))
def test_leaks_are_those_of_a_plain_search(rows: list[tuple[str, str]]) -> None:
    groups, splits = ([row[i] for row in rows] for i in (0, 1))
    slow = {
        group: {part: rows.index((group, part)) for part in dict.fromkeys(p for g, p in rows if g == group and p)}
        for group in set(groups) - {""}
    }
    assert leaks(TextColumn(groups), TextColumn(splits)) == {g: parts for g, parts in slow.items() if len(parts) > 1}
