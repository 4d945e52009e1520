"""CachedDataset: what went in comes out, in every mode; what is random stays out; what is handed out is one's own."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dali_pipes as dp
from dali_pipes.cache import MODES, open_store
from dali_pipes.items import item_codec
from dali_pipes.items.purity import random_transforms

ITEMS: list[Any] = [
    {
        "image": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
        "label": 3,
        "name": "é \ud800",
        "box": [1.5, None],
    },
    (np.arange(6, dtype=np.uint16).reshape(2, 3), True, b"\0raw", (), {}, [], ((),)),
    [torch.tensor([1.5, float("nan")], dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)],
    {1: torch.empty(0, 3), (2, "x"): torch.tensor(7, dtype=torch.uint16), None: np.float32(2.5), 2.5: np.array("text")},
    [float("inf"), -0.0, 2**70, -(2**63), 3 + 4j, np.datetime64("2026-01-02"), np.bool_(True), np.zeros((2, 0), ">i4")],
    [torch.tensor([1 + 2j]).conj(), torch.arange(6).reshape(2, 3).T, np.asfortranarray(np.eye(3)), bytearray(b"ab")],
    "text alone",
    torch.tensor([True, False]),
]


class Counting(torch.utils.data.Dataset[Any]):
    """Counts in shared memory how often each item is computed."""

    classes = ("a", "b")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.computed = torch.zeros(len(items), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.computed[index] += 1
        return self.items[index]


class Named(Counting):
    """Items under names."""

    def __init__(self, items: list[Any], names: list[Any]) -> None:
        super().__init__(items)
        self.names = names

    def sample_id(self, index: int) -> Any:
        return self.names[index]


class RandomNudge:
    """A transform that draws from one of the generators, and changes little."""

    def __init__(self, draw: Any, changes: bool = True) -> None:
        self.draw, self.changes = draw, changes

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        number = float(self.draw())
        return image + (number if self.changes else 0.0)


class Steps:
    """Transforms one after the other."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        for each in self.transforms:
            image = each(image)
        return image


class Transformed(torch.utils.data.Dataset[Any]):
    """Items that go through a transform."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return {"label": index, "image": self.transform(torch.zeros(3))}


def folder_of(mode: str, tmp_path: Path) -> Path | None:
    return None if mode in ("none", "memory") else tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_hit_equals_miss_equals_item(mode: str, tmp_path: Path) -> None:
    source = Counting(ITEMS)
    with dp.CachedDataset(source, mode, folder_of(mode, tmp_path), version="1") as kept:
        for _ in range(3):
            assert len(kept) == len(ITEMS)
            assert [item_codec.difference(kept[i], item) for i, item in enumerate(ITEMS)] == [None] * len(ITEMS)
        stats = kept.stats()
    if mode == "none":
        assert source.computed.tolist() == [3] * len(ITEMS)
        return
    assert source.computed.tolist() == [2] + [1] * (len(ITEMS) - 1)  # the first one twice, to see if it is random
    assert (stats["samples"], stats["misses"], stats["hits"]) == (8, 8, 16)
    assert stats["cache"]["entries"] == 8


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
        | hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
        lambda inner: st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.booleans(), inner, max_size=4),
        max_leaves=12,
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_nest_comes_back(item: Any) -> None:
    packed = item_codec.pack(item)
    assert (packed.dtype, packed.ndim) == (np.uint8, 1)
    assert item_codec.difference(item_codec.unpack(packed), item) is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"x": object()}, r"item\['x'\] is a builtins.object"),
        ([0, {1, 2}], r"item\[1\] is a builtins.set"),
        (torch.nn.Parameter(torch.zeros(2)), "is a torch.nn.parameter.Parameter"),
        (torch.zeros(2, requires_grad=True), "requires a gradient"),
        (torch.eye(2).to_sparse(), "sparse"),
        (np.array([None]), "dtype object"),
        (np.zeros(2, [("a", "i4")]), "kept are numbers"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(item: Any, message: str) -> None:
    with dp.CachedDataset([item]) as kept, pytest.raises(dp.ConfigError, match=message):
        kept[0]


def test_an_endless_item_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(dp.ConfigError, match="64 levels"):
        item_codec.pack(loop)


def test_damaged_bytes_raise_value_errors_only() -> None:
    packed = item_codec.pack(ITEMS[0])
    rng = np.random.default_rng(0)
    for cut in range(0, 280, 7):
        with pytest.raises(ValueError):  # noqa: PT011
            item_codec.unpack(packed[:cut])
    for _ in range(300):
        damaged = packed.copy()
        damaged[rng.integers(16, 120)] ^= rng.integers(1, 256)
        try:
            item_codec.unpack(damaged)
        except ValueError:
            continue
    for text in (
        '["a","|O",[1]]',
        '["a","O",[1]]',
        '["x"]',
        '["T","nothing",[1]]',
        '["l"]',
        '["a","<f8",[-1]]',
        '["T","int8",[-1]]',
        '["f","0x1p9999"]',
    ):
        body = np.frombuffer(b"dp-nest1" + len(text).to_bytes(8, "little") + text.encode(), np.uint8)
        with pytest.raises(ValueError):  # noqa: PT011
            item_codec.unpack(body)


@pytest.mark.parametrize("way", ["memory", "npy", "pinned"])
def test_editing_an_item_in_place_harms_nobody(way: str, tmp_path: Path) -> None:
    with dp.CachedDataset(Counting(ITEMS), way, folder_of(way, tmp_path), version=1) as kept:
        for _ in range(2):
            item = kept[0]
            assert item["image"][0, 0, 1] == 1
            item["image"].zero_()
            item["box"].clear()
        array = kept[1][0]
        array += 1
        assert kept[1][0][0, 0] == 0
    assert item_codec.difference(ITEMS[0]["box"], [1.5, None]) is None


@pytest.mark.parametrize("changes", [True, False], ids=["seen", "unseen"])
@pytest.mark.parametrize(
    ("draw", "generator"),
    [
        (random.random, "Python's random"),
        (np.random.rand, "numpy.random"),
        (lambda: torch.rand(()), "torch's generator"),
    ],
    ids=["python", "numpy", "torch"],
)
def test_random_items_are_refused_by_field_and_transform(draw: Any, generator: str, changes: bool) -> None:
    source = Transformed(Steps([torch.relu, RandomNudge(draw, changes)]))
    where = r"item\['image'\] differs in 3 of 3 values" if changes else f"draws from {generator}"
    with dp.CachedDataset(source) as kept:
        for _ in range(2):
            with pytest.raises(dp.ConfigError, match=where + r".*RandomNudge in dataset\.transform\)"):
                kept[0]
        assert kept.stats()["cache"]["entries"] == 0


def test_a_generator_of_ones_own_is_seen_by_its_values() -> None:
    source = Transformed(RandomNudge(np.random.default_rng(0).random))
    with dp.CachedDataset(source) as kept, pytest.raises(dp.ConfigError, match=r"item\['image'\] differs"):
        kept[2]


def test_items_that_seed_their_generator_are_kept() -> None:
    def seeded() -> torch.Tensor:
        torch.manual_seed(3)
        return torch.rand(())

    with dp.CachedDataset(Transformed(RandomNudge(seeded))) as kept:
        assert torch.equal(kept[0]["image"], kept[0]["image"])


def test_the_check_leaves_the_generators_as_they_were() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with dp.CachedDataset(Transformed(RandomNudge(random.random))) as kept, pytest.raises(dp.ConfigError):
        kept[0]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_random_transforms_are_found_in_wrapped_data_sets() -> None:
    inner = Transformed(Steps([Steps([RandomNudge(random.random)]), torch.relu]))
    subset = torch.utils.data.Subset(inner, [1, 2])
    assert list(random_transforms(subset)) == ["RandomNudge in dataset.dataset.transform"]


def test_persistent_modes_want_a_version_or_names(tmp_path: Path) -> None:
    with pytest.raises(dp.ConfigError, match="version="):
        dp.CachedDataset(Counting(ITEMS), "npy", tmp_path)
    with pytest.raises(dp.ConfigError, match="a text or a whole number"):
        dp.CachedDataset(Counting(ITEMS), "npy", tmp_path, version=True)
    with pytest.raises(dp.ConfigError, match="map-style"):
        dp.CachedDataset(iter(ITEMS))
    with dp.CachedDataset(Named([1], [2.5])) as kept, pytest.raises(dp.ConfigError, match="gave a float"):
        kept[0]


def test_another_version_is_another_cache_and_the_same_outlives_the_run(tmp_path: Path) -> None:
    for version, expected in (("1", 3), ("2", 3), ("1", 2), (1, 3)):
        source = Counting(["a", "b"])
        with dp.CachedDataset(source, "npy", tmp_path, version=version) as kept:
            assert [kept[0], kept[1]] == ["a", "b"]
        assert int(source.computed.sum()) == expected  # when warm: the one that is computed twice to check


def test_other_data_under_the_same_version_is_noticed(tmp_path: Path) -> None:
    with dp.CachedDataset(Counting(["a", "b"]), "npy", tmp_path, version="1") as kept:
        assert kept[0] == "a"
    message = r"not what the data set gives now.*version='1'"
    with (
        dp.CachedDataset(Counting(["x", "b"]), "npy", tmp_path, version="1") as kept,
        pytest.raises(dp.ConfigError, match=message),
    ):
        kept[0]


def test_names_survive_another_order_and_a_subset(tmp_path: Path) -> None:
    first = Named(["a", "b", "c"], ["n1", "n2", b"n3"])
    with dp.CachedDataset(first, "pinned", tmp_path) as kept:
        assert list(kept) == ["a", "b", "c"]
    second = Named(["c", "a"], [b"n3", "n1"])
    with dp.CachedDataset(second, "pinned", tmp_path) as kept:
        assert list(kept) == ["c", "a"]
        assert second.computed.tolist() == [2, 0]
        assert kept.stats()["hits"] == 2
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npy")
    assert b"n1" not in text


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_share_one_copy(way: str) -> None:
    source = Counting([{"x": torch.full((5,), i)} for i in range(8)])
    with dp.CachedDataset(source, "memory") as kept:
        workers = 2 if way == "fork" else 1  # a spawned one imports torch, which takes seconds
        loader = torch.utils.data.DataLoader(
            kept, 2, num_workers=workers, multiprocessing_context=way, persistent_workers=way == "spawn"
        )
        for _ in range(2):
            got = torch.cat([batch["x"] for batch in loader])
            assert torch.equal(got, torch.arange(8).repeat_interleave(5).reshape(8, 5))
        del loader
        assert kept[3]["x"].tolist() == [3] * 5
        stats = kept.stats()
    assert 8 < int(source.computed.sum()) <= 10  # each once, and one or two again to see if they are random
    assert (stats["misses"], stats["hits"]) == (8, 9)


def test_the_budget_is_in_bytes() -> None:
    items = [torch.zeros(1000, dtype=torch.uint8) for _ in range(50)]
    with dp.CachedDataset(items, mem_cache_size=20_000, cache_options={"shared": False}) as kept:
        assert all(torch.equal(item, items[0]) for item in kept)
        stats = kept.stats()["cache"]
    assert 10 <= stats["entries"] < 20
    assert stats["bytes"] <= 20_000


def test_an_entry_that_is_not_an_item_is_computed_again(tmp_path: Path) -> None:
    with dp.CachedDataset(Counting(["a", "b"]), "npy", tmp_path, version="1") as kept:
        assert list(kept) == ["a", "b"]
    with open_store("npy", tmp_path) as store:
        for key in store.keys():  # noqa: SIM118
            store.put(key, np.zeros(100, np.uint8))
    with dp.CachedDataset(Counting(["a", "b"]), "npy", tmp_path, version="1") as kept:
        assert [kept[0], kept[1], kept[1]] == ["a", "b", "b"]
        assert kept.stats()["repaired"] == 2


def test_it_says_how_many_samples_and_shows_what_the_data_set_offers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dali_pipes"), dp.CachedDataset(Counting(ITEMS)) as kept:
        assert "8 samples will be cached" in caplog.text
        assert kept.classes == ("a", "b")
        assert not hasattr(kept, "nothing")
        assert "8 samples of Counting" in repr(kept)
        with pytest.raises(IndexError):
            kept[8]
