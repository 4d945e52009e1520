"""Page-locking with a stand-in for CUDA's runtime, and without one."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

import dali_pipes.cache.pin
import dali_pipes.cache.segment_writer
from dali_pipes.cache import MODES, PinnedMapping
from tests.cache.conftest import key, value


class Runtime:
    """Keeps what was asked; ``refuse`` holds the flags that it does not take."""

    class CUDARuntimeError(RuntimeError):
        pass

    def __init__(self, refuse: tuple[int, ...] = ()) -> None:
        self.refuse, self.calls = refuse, []

    def hostRegister(self, address: int, length: int, flags: int) -> None:
        self.calls.append(("register", address, length, flags))
        if flags in self.refuse:
            raise self.CUDARuntimeError("cudaErrorNotSupported")

    def deviceSynchronize(self) -> None:
        self.calls.append(("synchronize",))

    def hostUnregister(self, address: int) -> None:
        self.calls.append(("unregister", address))


@pytest.mark.parametrize(("refuse", "flags"), [((), [8]), ((8,), [8, 0])])
def test_registers_whole_pages_and_gives_them_back(monkeypatch: Any, refuse: tuple[int, ...], flags: list[int]) -> None:
    runtime = Runtime(refuse)
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: runtime)
    array = np.zeros(10_000, np.uint8)
    with PinnedMapping(array) as pinned:
        assert pinned.active
    assert not pinned.active
    *registered, (last, address) = runtime.calls
    assert [call[3] for call in registered] == flags
    start, length = registered[0][1:3]
    assert (last, address) == ("unregister", start)
    assert start % 4096 == length % 4096 == 0
    assert start <= array.ctypes.data < array.ctypes.data + array.nbytes <= start + length
    pinned.close()
    assert len(runtime.calls) == len(flags) + 1


def test_a_refusal_is_no_error(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: Runtime((0, 8)))
    caplog.set_level("INFO")
    with PinnedMapping(np.zeros(5)) as pinned:
        assert not pinned.active
    assert "cudaErrorNotSupported" in caplog.text


def test_without_cuda(monkeypatch: Any) -> None:
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: None)
    with PinnedMapping(np.zeros(5)) as pinned:
        assert not pinned.active
        assert "missing" in pinned.reason


def test_a_packed_store_locks_what_will_not_grow(monkeypatch: Any, tmp_path: Any) -> None:
    runtime = Runtime()
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: runtime)
    large, small = (3, 2048, 2048), (1, 50, 50)  # one of the large ones fills a segment
    monkeypatch.setattr(
        dali_pipes.cache.segment_writer, "capacity", lambda size, *_: 1 if size == 3 * 2048 * 2048 else 100
    )
    with dali_pipes.cache.open_store("pinned", tmp_path, strict=True) as writer:
        reader = dali_pipes.cache.open_store("pinned", tmp_path, strict=True, read_only=True)
        for number in range(3):
            writer.put(key(number), value(number, small))
        assert (writer.page_lock(), reader.page_lock(), runtime.calls) == (0, 0, [])
        writer.put(key(3), value(3, large))
        for store in (writer, reader, writer):
            assert store.page_lock() == 3 * 2048 * 2048
        assert [call[0] for call in runtime.calls] == ["register"] * 2
    assert [call[0] for call in runtime.calls] == ["register"] * 2 + ["unregister"]
    assert reader.page_lock() == 3 * 2048 * 2048 + 3 * 50 * 50, "its writer has closed"
    found = reader.get(key(2))
    assert found is not None
    start, length = runtime.calls[-1][1:3]
    assert start <= found.ctypes.data < found.ctypes.data + found.nbytes <= start + length
    reader.close()
    assert [call[0] for call in runtime.calls].count("unregister") == 3
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: None)
    with dali_pipes.cache.open_store("pinned", tmp_path) as store:
        assert store.page_lock() == 0


def test_a_packed_store_locks_what_a_dead_writer_left(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", Runtime)
    child = os.fork()
    if not child:
        dali_pipes.cache.open_store("pinned", tmp_path).put(key(1), value(1))
        os._exit(0)  # without closing
    assert os.waitpid(child, 0)[1] == 0
    with dali_pipes.cache.open_store("pinned", tmp_path, strict=True) as store:
        assert store.page_lock() == value(1).nbytes


def test_page_locking_keeps_to_its_budget_and_gives_back_what_was_evicted(monkeypatch: Any, tmp_path: Any) -> None:
    runtime = Runtime()
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", lambda: runtime)
    monkeypatch.setattr(dali_pipes.cache.segment_writer, "capacity", lambda *_: 1)
    size = value(0).nbytes
    with dali_pipes.cache.open_store("pinned", tmp_path, strict=True) as store:
        for number in range(4):
            store.put(key(number), value(number))
        assert store.page_lock(0) == 0
        assert store.page_lock(2 * size + 1) == 2 * size
        assert store.page_lock(3 * size) == 3 * size, "what was locked counts"
        assert store.page_lock(size) == 3 * size, "what is locked stays locked"
        assert store.page_lock() == 4 * size
        for number in range(2):
            store.delete(key(number))
        assert store.page_lock() == 2 * size
        assert [call[0] for call in runtime.calls] == ["register"] * 4 + ["synchronize"] + ["unregister"] * 2


def test_other_threads_use_the_store_while_pages_are_locked(monkeypatch: Any, tmp_path: Any) -> None:
    with dali_pipes.cache.open_store("pinned", tmp_path, strict=True) as store:
        store.put(key(0), value(0))
    with dali_pipes.cache.open_store("pinned", tmp_path, strict=True) as store:
        others: list[bool] = []

        class Slow(Runtime):
            def hostRegister(self, address: int, length: int, flags: int) -> None:
                def use() -> None:
                    store.put(key(9), value(9))
                    others.append(store.get(key(9)) is not None)

                thread = threading.Thread(target=use)
                thread.start()
                thread.join(60)

        monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", Slow)
        assert store.page_lock() == value(0).nbytes
        assert others == [True], "the store's lock was held"


def test_tiered_locks_what_lies_under_it(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setattr(dali_pipes.cache.pin, "_runtime", Runtime)
    size = value(0).nbytes
    for name, number in (("own", 1), ("base", 2)):
        with dali_pipes.cache.open_store("pinned", tmp_path / name, strict=True) as store:
            store.put(key(number), value(number))
    with dali_pipes.cache.open_store("tiered", tmp_path / "own", over="pinned", base=tmp_path / "base") as store:
        assert (store.page_lock(0), store.page_lock(size), store.page_lock()) == (0, size, 2 * size)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_can_be_asked(mode: str, tmp_path: Any) -> None:
    with dali_pipes.cache.open_store(mode, None if mode in ("none", "memory") else tmp_path) as store:
        assert (store.page_lock(), store.page_lock(5), store.orphans(), store.trim(), store.compact()) == (
            0,
            0,
            [],
            0,
            0,
        )
        assert store.options.verify == "first"
        store.refresh()
