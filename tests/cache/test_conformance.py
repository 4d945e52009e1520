"""What every store must do, in every mode and every way of opening it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from dali_pipes.cache import EntryError, Key, Store, StoreConfigError
from tests.cache.conftest import WAYS, coherent, key, persistent, value

Open = Callable[..., Store]
SHAPES = [(3, 8, 9), (1, 5, 4), (1, 1, 1), (7,), (), (0,), (2, 0, 3), (2, 3, 4, 5), (4, 6), (300, 2)]
DTYPES = ["uint8", "uint16", "int16", "float32", "float64", "bool", "int64", "complex64", ">u2", "float16"]


def same(found: np.ndarray | None, wanted: np.ndarray) -> None:
    assert found is not None
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()
    assert found.flags.c_contiguous
    assert not found.flags.writeable


@pytest.mark.parametrize("way", WAYS)
class TestStore:
    def test_protocol(self, opened: Open, way: str) -> None:
        store = opened(way)
        assert isinstance(store, Store)
        assert store.mode == WAYS[way][0]
        assert isinstance(store.direct, bool)
        assert store.persistent == (way in persistent())

    def test_a_miss_is_none(self, opened: Open, way: str) -> None:
        store = opened(way)
        assert store.get(key(1)) is None
        assert not store.contains(key(1))
        assert store.stats()["misses"] == 1

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_gives_what_was_put_in_every_shape(self, opened: Open, way: str, shape: tuple[int, ...]) -> None:
        store, wanted = opened(way), value(1, shape)
        store.put(key(1), wanted)
        same(store.get(key(1)), wanted)
        same(store.get(key(1)), wanted)
        assert store.contains(key(1))
        assert store.keys() == [key(1)]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(3, 8, 9), (5,)], ids=str)
    def test_gives_what_was_put_in_every_dtype(
        self, opened: Open, way: str, shape: tuple[int, ...], dtype: str
    ) -> None:
        store = opened(way)
        wanted = value(1, shape, "uint8").astype(bool) if dtype == "bool" else value(1, shape, dtype)
        store.put(key(1), wanted)
        same(store.get(key(1)), wanted)

    def test_not_contiguous_arrays(self, opened: Open, way: str) -> None:
        store, wanted = opened(way), value(1, (8, 9, 3)).transpose(2, 0, 1)[:, ::-1]
        store.put(key(1), wanted)
        same(store.get(key(1)), wanted.copy())

    def test_other_things_are_refused(self, opened: Open, way: str) -> None:
        store = opened(way)
        for thing in ([1, 2], np.array(["a"]), np.array([object()]), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "u1")])):
            with pytest.raises(EntryError):
                store.put(key(1), thing)  # type: ignore[arg-type]
        assert store.get(key(1)) is None

    def test_an_entry_is_a_copy_and_read_only(self, opened: Open, way: str) -> None:
        store, given = opened(way), value(1).copy()
        store.put(key(1), given)
        given[:] = 0
        found = store.get(key(1))
        assert found is not None
        with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
            found[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            found.flags.writeable = True
        same(store.get(key(1)), value(1))

    def test_put_replaces(self, opened: Open, way: str) -> None:
        store = opened(way)
        store.put(key(1), value(1))
        before = store.get(key(1))
        store.put(key(1), value(2, (1, 4, 4)))
        same(store.get(key(1)), value(2, (1, 4, 4)))
        store.put(key(1), value(3))
        store.put(key(1), value(3))
        same(store.get(key(1)), value(3))
        assert before is not None
        same(before, value(1))
        assert store.keys() == [key(1)]
        assert store.stats()["entries"] == 1

    def test_delete(self, opened: Open, way: str) -> None:
        store = opened(way)
        assert not store.delete(key(1))
        store.put(key(1), value(1))
        store.put(key(2), value(2))
        held = store.get(key(1))
        assert store.delete(key(1))
        assert not store.delete(key(1))
        assert store.get(key(1)) is None
        same(store.get(key(2)), value(2))
        assert held is not None
        same(held, value(1))
        store.put(key(1), value(1))
        same(store.get(key(1)), value(1))

    def test_many_and_stats(self, opened: Open, way: str) -> None:
        store = opened(way)
        for number in range(50):
            store.put(key(number), value(number))
        for number in range(50):
            same(store.get(key(number)), value(number))
        assert set(store.keys()) == {key(number) for number in range(50)}
        stats = store.stats()
        assert (stats["entries"], stats["hits"], stats["misses"], stats["puts"]) == (50, 50, 0, 50)
        assert (stats["errors"], stats["corrupt"], stats["evicted"] * (way != "tiered-pinned")) == (0, 0, 0)
        assert stats["bytes"] >= 1

    def test_threads(self, opened: Open, way: str) -> None:
        store, wrong = opened(way), []

        def work(first: int) -> None:
            for number in range(first, first + 40):
                store.put(key(number), value(number))
                for other in range(first, number + 1, 7):
                    found = store.get(key(other))
                    if found is None or not np.array_equal(found, value(other)):
                        wrong.append(other)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 100, 140)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(store.keys()) == 140

    def test_closed(self, opened: Open, way: str) -> None:
        with opened(way) as store:
            store.put(key(1), value(1))
            held = store.get(key(1))
        with pytest.raises(StoreConfigError, match="closed"):
            store.get(key(1))
        with pytest.raises(StoreConfigError, match="closed"):
            store.put(key(1), value(1))
        store.close()
        assert held is not None
        same(held, value(1))


@pytest.mark.parametrize("way", persistent())
class TestPersistentStore:
    def test_reopening(self, opened: Open, way: str) -> None:
        for number in range(5):
            with opened(way) as store:
                store.put(key(number), value(number))
                for earlier in range(number + 1):
                    same(store.get(key(earlier)), value(earlier))
        assert len(opened(way).keys()) == 5

    def test_two_instances_see_each_other(self, opened: Open, way: str) -> None:
        if way not in coherent():
            with opened(way) as one:
                one.put(key(1), value(1))
                same(opened(way).get(key(1)), value(1))
            return
        one, two = opened(way), opened(way)
        one.put(key(1), value(1))
        same(two.get(key(1)), value(1))
        two.put(key(2), value(2))
        same(one.get(key(2)), value(2))
        assert one.delete(key(2))
        assert set(two.keys()) == {key(1)}
        two.put(key(1), value(9))
        assert set(one.keys()) == {key(1)}
        same(opened(way).get(key(1)), value(9))

    def test_read_only(self, opened: Open, way: str) -> None:
        opened(way).put(key(1), value(1))
        store, again = (opened(way, read_only=True) for _ in range(2))
        same(store.get(key(1)), value(1))
        store.put(key(2), value(2))
        store.delete(key(1))
        for other in (again, opened(way)):
            same(other.get(key(1)), value(1))
            assert other.get(key(2)) is None
        if way in coherent():
            assert not store.delete(key(1))
            same(store.get(key(1)), value(1))
            assert store.get(key(2)) is None

    def test_read_only_of_nothing(self, opened: Open, way: str, tmp_path: object) -> None:
        store = opened(way, "nothing", read_only=True, strict=False)
        assert store.get(key(1)) is None
        assert store.keys() == []
        assert store.stats()["entries"] == 0
        from pathlib import Path

        assert not (Path(str(tmp_path)) / "nothing").exists()

    def test_pickle_reopens(self, opened: Open, way: str) -> None:
        import pickle

        store = opened(way)
        store.put(key(1), value(1))
        again = pickle.loads(pickle.dumps(store))  # noqa: S301
        same(again.get(key(1)), value(1))
        again.put(key(2), value(2))
        again.close()
        same(store.get(key(2)), value(2))


def test_keys_do_not_mix() -> None:
    assert len({Key.of(a="b"), Key.of(a=b"b"), Key.of(b="a"), Key.of(ab=""), Key.of(a="1"), Key.of(a=1)}) == 6
