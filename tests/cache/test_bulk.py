"""Many entries at once give what one after the other gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.cache import DISK_MODES, EntryError, Key, StoreIOError, open_store
from dali_pipes.cache.bulk import Rows, get_rows, get_views, put_rows
from dali_pipes.cache.files import Folder
from dali_pipes.cache.segment import DATA

SHAPES = [(), (3,), (2, 0), (5,)]


def digest(number: int) -> bytes:
    return Key.of(number=number).digest


def value(number: int) -> np.ndarray:
    shape = SHAPES[number % len(SHAPES)]
    return np.full(shape, number, np.float32 if number % 3 else np.int16)


def by_position(found: list[Rows]) -> dict[int, np.ndarray]:
    assert len({(rows.array.dtype.str, rows.array.shape[1:]) for rows in found}) == len(found)
    assert all(np.all(np.diff(rows.at) > 0) for rows in found)
    return {at: row for rows in found for at, row in zip(rows.at.tolist(), rows.array)}


def one_by_one(store: Any, digests: list[bytes]) -> dict[int, np.ndarray]:
    found = {at: store.get(Key(each)) for at, each in enumerate(digests)}
    return {at: array for at, array in found.items() if array is not None}


def same(one: dict[int, np.ndarray], two: dict[int, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(
        one[at].dtype == two[at].dtype and np.array_equal(one[at], two[at]) for at in one
    )


@pytest.mark.parametrize("verify", ["first", "always", "never"])
@pytest.mark.parametrize("mode", ["memory", *DISK_MODES])
def test_every_mode_gathers_what_it_gets(mode: str, verify: Any, tmp_path: Path) -> None:
    with open_store(mode, None if mode == "memory" else tmp_path, verify=verify) as store:
        for number in range(30):
            store.put(Key(digest(number)), value(number))
    if mode == "memory":
        return
    with open_store(mode, tmp_path, verify=verify) as fresh, open_store(mode, tmp_path, verify=verify) as slow:
        for asked in ([5, 1, 40, 1, 29], list(range(30)), [], [77], [3, 7, 11]):
            digests = [digest(each) for each in asked]
            assert same(by_position(get_rows(fresh, digests)), one_by_one(slow, digests))
        assert (fresh.stats()["hits"], fresh.stats()["misses"]) == (slow.stats()["hits"], slow.stats()["misses"])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_writing_and_reading_in_any_order(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against a dictionary; several writers, deletions, replacements and duplicates."""
    folder = tmp_path_factory.mktemp("bulk")
    stores = [open_store("pinned", folder), open_store("pinned", folder)]
    model: dict[int, float] = {}
    numbers = st.lists(st.integers(0, 12), max_size=12)
    for _ in range(data.draw(st.integers(1, 8))):
        store = stores[data.draw(st.integers(0, 1))]
        chosen = data.draw(numbers)
        what = data.draw(st.sampled_from(["put", "put", "delete", "single"]))
        content = float(data.draw(st.integers(0, 3)))
        if what == "put":
            put_rows(store, [digest(each) for each in chosen], np.full((len(chosen), 4), content))
            model.update(dict.fromkeys(chosen, content))
        elif what == "single":
            for each in chosen:
                store.put(Key(digest(each)), np.full(4, content))
            model.update(dict.fromkeys(chosen, content))
        else:
            for each in chosen:
                store.delete(Key(digest(each)))
                model.pop(each, None)
        asked = [*range(13), *chosen]
        for reader in stores:
            found = by_position(get_rows(reader, [digest(each) for each in asked]))
            told = {at: model[each] for at, each in enumerate(asked) if each in model}
            if reader is store and chosen:  # it has looked at the journals
                assert {at: float(row[0]) for at, row in found.items()} == told
            else:  # what another replaced or deleted is known to this one when it next misses
                assert found.keys() >= told.keys()
    for store in stores:
        store.close()
    with open_store("pinned", folder) as fresh:
        found = by_position(get_rows(fresh, [digest(each) for each in range(13)]))
        assert {at: float(row[0]) for at, row in found.items()} == model
        assert fresh.stats()["corrupt"] == 0


def test_rows_are_the_callers_own(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path) as store:
        put_rows(store, [digest(0), digest(1)], np.ones((2, 4)))
        (rows,) = get_rows(store, [digest(0), digest(1)])
        rows.array[:] = 7
        assert store.get(Key(digest(0))) is not None
        assert float(get_rows(store, [digest(1)])[0].array.max()) == 1


@pytest.mark.parametrize("verify", ["first", "always"])
def test_damaged_rows_are_missing_and_the_others_there(verify: Any, tmp_path: Path) -> None:
    digests = [digest(each) for each in range(20)]
    with open_store("pinned", tmp_path) as store:
        put_rows(store, digests, np.arange(80.0).reshape(20, 4))
    (path,) = (tmp_path / "pinned").glob("*.npy")
    with open(path, "r+b") as file:
        file.seek(4096 + 7 * 32 + 3)
        file.write(b"\xff")
    with open_store("pinned", tmp_path, verify=verify) as store:
        found = by_position(get_rows(store, digests))
        assert found.keys() == set(range(20)) - {7}
        assert store.stats()["corrupt"] == 1
    with open_store("pinned", tmp_path, verify=verify) as store:
        assert 7 not in by_position(get_rows(store, digests))
        assert store.stats()["corrupt"] == 0  # it was buried
    os.truncate(path, 4096 + 10 * 32)
    with open_store("pinned", tmp_path, verify=verify) as store:
        assert not by_position(get_rows(store, digests))


def test_segments_that_are_gone_are_missing(tmp_path: Path) -> None:
    digests = [digest(each) for each in range(20)]
    with open_store("pinned", tmp_path) as store:
        put_rows(store, digests, np.arange(80.0).reshape(20, 4))
    with open_store("pinned", tmp_path) as store:
        for path in (tmp_path / "pinned").glob("*"):
            path.unlink()
        assert get_rows(store, digests) == []
        put_rows(store, digests, np.arange(80.0).reshape(20, 4))
        assert len(by_position(get_rows(store, digests))) == 20


def test_read_only_stores_take_nothing(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path) as store:
        put_rows(store, [digest(0)], np.zeros((1, 4)))
    with open_store("pinned", tmp_path, read_only=True) as store:
        put_rows(store, [digest(1)], np.zeros((1, 4)))
        assert by_position(get_rows(store, [digest(0), digest(1)])).keys() == {0}


def test_rows_fill_one_segment_after_the_other(tmp_path: Path) -> None:
    """Eight to a segment here; given-back slots and duplicates in between."""
    rows = np.arange(30.0 * 1000).reshape(30, 1000)
    digests = [digest(each) for each in range(30)]
    with open_store("pinned", tmp_path, disk_bytes=1 << 20) as store:
        put_rows(store, digests[:3], rows[:3])
        put_rows(store, [*digests, digests[2]], np.concatenate([rows, rows[2:3]]))
        assert np.array_equal(get_rows(store, digests)[0].array, rows)
        assert store.stats()["puts"] == 34
        assert store.stats()["segments"] == 4
        put_rows(store, digests[:1], rows[1:2])
        assert np.array_equal(get_rows(store, digests[:1])[0].array, rows[1:2])
    with open_store("pinned", tmp_path) as store:
        assert len(store.keys()) == 30
        assert np.array_equal(get_rows(store, digests[1:])[0].array, rows[1:])


def test_a_write_that_fails_publishes_nothing_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, rows = [digest(each) for each in range(6)], np.arange(24.0).reshape(6, 4)
    for broken in ("write_at", "append"):
        with open_store("pinned", tmp_path / broken) as store:
            put_rows(store, digests[:2], rows[:2])
            with monkeypatch.context() as patch:

                def refuse(*_: Any) -> None:
                    raise OSError(28, "No space left on device")

                patch.setattr(Folder, broken, refuse)
                put_rows(store, digests, rows)
                assert store.stats()["errors"] == 1
            assert by_position(get_rows(store, digests)).keys() == {0, 1}
            put_rows(store, digests, rows)
            assert np.array_equal(get_rows(store, digests)[0].array, rows)
    with open_store("pinned", tmp_path / "strict", strict=True) as store:
        monkeypatch.setattr(Folder, "write_at", refuse)
        with pytest.raises(StoreIOError):
            put_rows(store, digests, rows)


def test_rows_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path) as store, pytest.raises(EntryError):
        put_rows(store, [digest(0)], np.array([["text"]]))


@pytest.mark.parametrize("verify", ["first", "always", "never"])
@pytest.mark.parametrize("mode", DISK_MODES)
def test_views_are_what_get_gives(mode: str, verify: Any, tmp_path: Path) -> None:
    with open_store(mode, tmp_path) as store:
        for number in range(0, 60, 2):
            store.put(Key(digest(number)), value(number))
    wanted = [digest(number) for number in (*range(60), 4, 4)]
    with open_store(mode, tmp_path, verify=verify) as store, open_store(mode, tmp_path, verify=verify) as twin:
        for _ in range(2):
            found = {at: view for at, view in enumerate(get_views(store, wanted)) if view is not None}
            want = one_by_one(twin, wanted)
            assert found.keys() == want.keys()
            for at, view in found.items():
                assert (view.dtype, view.shape) == (want[at].dtype, want[at].shape)
                assert not view.flags.writeable
                assert np.array_equal(view, want[at])
        assert store.hits == twin.hits


def test_views_of_damaged_and_lost_entries_are_left_to_get(tmp_path: Path) -> None:
    keys = [digest(number) for number in range(0, 40, 4)]
    with open_store("pinned", tmp_path) as store:
        for number in range(0, 40, 4):
            store.put(Key(digest(number)), np.full(50, number, np.int16))
    path = next(path for path in (tmp_path / "pinned").iterdir() if path.suffix == ".npy")
    whole = bytearray(path.read_bytes())
    whole[DATA + 3 * 100 + 7] ^= 1  # in the fourth slot
    with open_store("pinned", tmp_path) as store:
        path.write_bytes(whole)
        found = get_views(store, keys)
        assert [at for at, view in enumerate(found) if view is None] == [3]
        assert store.get(Key(keys[3])) is None
        assert store.corrupt == 1
        assert [at for at, view in enumerate(get_views(store, keys)) if view is None] == [3]
    with open_store("pinned", tmp_path) as store:
        path.unlink()
        assert get_views(store, keys) == [None] * 10
        assert [store.get(Key(key)) for key in keys] == [None] * 10


def test_views_of_a_segment_in_whose_place_another_lies(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path) as store:
        store.put(Key(digest(0)), np.zeros(50, np.int16))
        store.put(Key(digest(1)), np.ones(50, np.int16))
    with open_store("pinned", tmp_path) as store:
        assert get_views(store, [digest(0)])[0] is not None
        path = next(path for path in (tmp_path / "pinned").iterdir() if path.suffix == ".npy")
        copy = path.read_bytes()
        path.unlink()
        path.write_bytes(copy)
        assert get_views(store, [digest(1)]) == [None]
        assert np.array_equal(store.get(Key(digest(1))), np.ones(50, np.int16))
